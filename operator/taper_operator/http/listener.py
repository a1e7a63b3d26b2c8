"""The listening socket of an HTTP server of the operator."""

from __future__ import annotations

import http.server
import socket
import socketserver
from typing import Any

from taper_operator.settings.parsing import Address

# How soon `run` notices that it should return.
_POLL_SECONDS = 0.1


class HttpListener(http.server.ThreadingHTTPServer):
    """Listens on an address, or on all of this machine's addresses if it names no host."""

    timeout = _POLL_SECONDS
    block_on_close = False

    def __init__(self, address: Address, handler: type[http.server.BaseHTTPRequestHandler]) -> None:
        """Open the port; `run` serves it. Raises OSError where it is in use or not this machine's."""
        self._is_stopping = False
        # A pod may have IPv4, IPv6 or both: without a host, use all there are.
        is_dual = not address.host and socket.has_dualstack_ipv6()
        if is_dual or ":" in address.host:
            self.address_family = socket.AF_INET6
        self._is_dual = is_dual
        super().__init__((address.host or ("::" if is_dual else ""), address.port), handler)

    def run(self) -> None:
        """Serve requests, each connection in a thread of its own, until `stop`; then close the port."""
        with self:
            while not self._is_stopping:
                self.handle_request()

    def stop(self) -> None:
        """Make `run` return. Does not block; requests in progress are left to their threads."""
        self._is_stopping = True

    @property
    def port(self) -> int:
        """The actual port, also where the address has port 0."""
        return int(self.server_address[1])

    def server_bind(self) -> None:
        if self._is_dual:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        # Not HTTPServer's, which looks up this machine's name in DNS.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "", self.server_address[1]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignores clients that hang up."""

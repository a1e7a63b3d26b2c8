"""A small HTTP server for the kubelet's probes and for Prometheus."""

from __future__ import annotations

import http.server
from collections.abc import Callable, Mapping
from typing import NamedTuple

from taper_operator.http.listener import HttpListener
from taper_operator.settings.parsing import Address

# A client that connects and sends nothing is cut off.
_READ_SECONDS = 5.0


class Page(NamedTuple):
    """An answer."""

    status: int
    content_type: str
    body: bytes


_NOT_FOUND = Page(404, "text/plain; charset=utf-8", b"not found\n")
# Given the Accept header.
MakePage = Callable[[str], Page]


def text_page(problems: list[str]) -> Page:
    """200 and `ok`, or 503 and the problems."""
    body = "\n".join(problems) or "ok"
    return Page(503 if problems else 200, "text/plain; charset=utf-8", f"{body}\n".encode())


class HealthServer(HttpListener):
    """Serves GET requests for some paths."""

    def __init__(self, address: Address, pages: Mapping[str, MakePage]) -> None:
        super().__init__(address, _Handler)
        self.pages = pages


class _Handler(http.server.BaseHTTPRequestHandler):
    server: HealthServer
    timeout = _READ_SECONDS
    server_version = "taper-operator"
    sys_version = ""

    def do_GET(self) -> None:
        make_page = self.server.pages.get(self.path.partition("?")[0])
        page = make_page(self.headers.get("Accept", "")) if make_page else _NOT_FOUND
        self.send_response(page.status)
        self.send_header("Content-Type", page.content_type)
        self.send_header("Content-Length", str(len(page.body)))
        self.end_headers()
        self.wfile.write(page.body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Logs nothing: probes come every few seconds."""

"""Certificates in files that change: the server's own, and the CA certificates for clients.

Changed files are reloaded without a restart. Files that are unreadable or do not match are ignored until the
next check: certificate and key may be replaced one after the other.

Invariant (asserted by `tests/operator/settings/test_certificate.py`): a valid value is used until there is
another valid one.
"""

from __future__ import annotations

import logging
import os
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

log = logging.getLogger(__name__)

_CHECK_SECONDS = 10.0
_MAX_TRUSTED_CHARACTERS = 256 * 1024
_Read = TypeVar("_Read")


class ReloadedFiles(Generic[_Read]):
    """A value read from files, reloaded when they change. May be called from any thread.

    read: reads the files; raises OSError or ValueError (such as SSLError) if they are not valid
    clock: monotonic seconds
    """

    def __init__(
        self, paths: Sequence[str], read: Callable[[], _Read], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Raises what `read` raises."""
        self._paths = tuple(paths)
        self._read = read
        self._clock = clock
        self._lock = threading.Lock()
        self._seen = self._file_states()
        self._value = read()
        self._checked_at = clock()

    def value(self) -> _Read:
        """The last valid value. The files are checked at most every 10 s."""
        with self._lock:
            if self._clock() - self._checked_at >= _CHECK_SECONDS:
                self._checked_at = self._clock()
                self._reload()
            return self._value

    def _reload(self) -> None:
        try:
            seen = self._file_states()
            if seen == self._seen:
                return
            self._value = self._read()
        except (OSError, ValueError) as error:
            log.warning("%s cannot be reloaded: %s", ", ".join(self._paths), error)
            return
        self._seen = seen
        log.info("%s was reloaded", ", ".join(self._paths))

    def _file_states(self) -> tuple[tuple[int, int, int], ...]:
        states = [os.stat(path) for path in self._paths]
        return tuple((state.st_ino, state.st_mtime_ns, state.st_size) for state in states)


def server_context(certificate: str, key: str) -> ssl.SSLContext:
    """The TLS context of a server with a certificate (and its chain) and a key, each in a PEM file.

    Raises OSError, or its subclass SSLError, if they are unreadable or do not match.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    # With an encrypted key, OpenSSL would otherwise prompt for a passphrase.
    context.load_cert_chain(certificate, key, password="")
    return context


def trusted_certificates(path: str) -> str:
    """The CA certificates of a PEM file, for clients. Raises OSError, or ValueError if it holds none."""
    with open(path, encoding="ascii") as file:
        text = file.read(_MAX_TRUSTED_CHARACTERS + 1)
    if len(text) > _MAX_TRUSTED_CHARACTERS:
        raise ValueError(f"{path} is larger than {_MAX_TRUSTED_CHARACTERS} characters")
    if "PRIVATE KEY" in text:
        # The text is given to every job.
        raise ValueError(f"{path} holds a private key; name a file with the CA's certificate only")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=text)
    except (ssl.SSLError, ValueError) as error:
        raise ValueError(f"{path} holds no certificates in PEM form: {error}") from None
    return text

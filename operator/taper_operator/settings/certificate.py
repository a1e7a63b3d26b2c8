"""Certificates in files that others change: the server's own, and the ones that clients are to trust.

A changed file is read anew, without a restart. What cannot be read or does not fit together is left for
the next look: certificate and key may be changed one after the other.

Invariant (asserted by `tests/operator/settings/test_certificate.py`): what was good once is used until there
is something else that is good.
"""

from __future__ import annotations

import logging
import os
import ssl
import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

log = logging.getLogger(__name__)

_LOOK_SECONDS = 10.0
_MAX_TRUSTED_CHARACTERS = 256 * 1024
_Read = TypeVar("_Read")


class ReloadedFiles(Generic[_Read]):
    """What is read from files, as they were when they were last whole. May be called from any thread.

    read: what reads them; it raises OSError or ValueError (such as SSLError) for what is not right
    clock: monotonic seconds
    """

    def __init__(
        self, paths: Sequence[str], read: Callable[[], _Read], *, clock: Callable[[], float]
    ) -> None:
        """Raises what `read` raises."""
        self._paths = tuple(paths)
        self._read = read
        self._clock = clock
        self._lock = threading.Lock()
        self._seen = self._look()
        self._value = read()
        self._looked_at = clock()

    def value(self) -> _Read:
        """What was read last. It is looked for changes every 10 s at most."""
        with self._lock:
            if self._clock() - self._looked_at >= _LOOK_SECONDS:
                self._looked_at = self._clock()
                self._renew()
            return self._value

    def _renew(self) -> None:
        try:
            seen = self._look()
            if seen == self._seen:
                return
            self._value = self._read()
        except (OSError, ValueError) as error:
            log.warning("%s cannot be read anew: %s", ", ".join(self._paths), error)
            return
        self._seen = seen
        log.info("%s has been read anew", ", ".join(self._paths))

    def _look(self) -> tuple[tuple[int, int, int], ...]:
        states = [os.stat(path) for path in self._paths]
        return tuple((state.st_ino, state.st_mtime_ns, state.st_size) for state in states)


def server_context(certificate: str, key: str) -> ssl.SSLContext:
    """A context of a server with the certificate (and its chain) and key in two PEM files.

    Raises OSError, also in form of SSLError, where they cannot be read or do not belong together.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    # A key with a passphrase must not have the process wait for someone to type one.
    context.load_cert_chain(certificate, key, password="")
    return context


def trusted_certificates(path: str) -> str:
    """The certificates of a PEM file, for clients to trust. Raises OSError, ValueError for what is none."""
    with open(path, encoding="ascii") as file:
        text = file.read(_MAX_TRUSTED_CHARACTERS + 1)
    if len(text) > _MAX_TRUSTED_CHARACTERS:
        raise ValueError(f"{path} is larger than {_MAX_TRUSTED_CHARACTERS} characters")
    if "PRIVATE KEY" in text:
        # It goes to every job.
        raise ValueError(f"{path} holds a private key: name the CA's certificate alone")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=text)
    except (ssl.SSLError, ValueError) as error:
        raise ValueError(f"{path} holds no certificates in PEM form: {error}") from None
    return text

"""What the text of each setting must be, and what it means. Each raises ValueError with what is wrong."""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import urlsplit

from taper_operator.settings.certificate import trusted_certificates
from taper_operator.settings.pod_policy import ALL

_DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_DNS_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")


class Address(NamedTuple):
    """Where a server listens. host: an IP address, empty for all; port: 0 for a free one"""

    host: str
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseTimes:
    """How leaders take turns.

    duration_seconds: others take a lease over that was not renewed for so long
    renew_deadline_seconds: the leader gives up when it could not renew for so long
    retry_period_seconds: between two tries
    """

    duration_seconds: float = 10.0
    renew_deadline_seconds: float = 7.0
    retry_period_seconds: float = 2.0

    def problems(self) -> list[str]:
        """Why these times cannot work; empty if they can."""
        if not self.duration_seconds > self.renew_deadline_seconds > self.retry_period_seconds > 0:
            return [
                "--lease-seconds: must be three times, each longer than the next: lease duration, "
                "renew deadline, retry period"
            ]
        return []


def read_namespace(text: str) -> str:
    """The name of a namespace."""
    if not _DNS_LABEL.fullmatch(text):
        raise ValueError(f"{text!r} is no name of a namespace")
    return text


def read_namespaces(text: str) -> tuple[str, ...]:
    """All namespaces must be asked for in so many words: a lost variable must not widen what is watched."""
    if text == "*":
        return ()
    if not text:
        raise ValueError("missing; give one namespace, several with commas between them, or * for all")
    names = [read_namespace(name.strip()) for name in text.split(",")]
    return tuple(sorted(set(names)))


def read_name(text: str) -> str:
    """The name of an object."""
    if not text:
        raise ValueError("missing")
    if len(text) > 200 or not _DNS_SUBDOMAIN.fullmatch(text):
        raise ValueError(f"{text!r} is no name of an object: lower case, digits, - and . only")
    return text


def read_lease_times(text: str) -> LeaseTimes:
    """Three times, such as 10/7/2."""
    try:
        duration, deadline, period = (float(part) for part in text.split("/"))
    except ValueError:
        raise ValueError(f"{text!r} should look like 10/7/2") from None
    times = LeaseTimes(
        duration_seconds=duration, renew_deadline_seconds=deadline, retry_period_seconds=period
    )
    # A Lease holds whole seconds.
    if times.problems() or not duration.is_integer() or duration > 600:
        raise ValueError(
            f"{text!r} must be lease duration / renew deadline / retry period, each shorter than "
            "the one before, the first in whole seconds up to 600"
        )
    return times


def read_address(text: str) -> Address:
    """A host, which may be left out, and a port."""
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not port.isdecimal() or int(port) > 65_535:
        raise ValueError(f"{text!r} should look like 127.0.0.1:8080, [::1]:8080 or :8080")
    if host:
        ipaddress.ip_address(host)
    return Address(host, int(port))


def read_workers(text: str) -> int:
    """A number of workers."""
    if not text.isdecimal() or not 1 <= int(text) <= 64:
        raise ValueError(f"{text!r} is not a number from 1 to 64")
    return int(text)


def read_image(text: str) -> str:
    """Empty: every job must name its own."""
    if text and not re.fullmatch(r"[A-Za-z0-9][-A-Za-z0-9._:/@]*", text):
        raise ValueError(f"{text!r} is no name of an image")
    return text


def read_secrets(text: str) -> frozenset[str]:
    """None unless named; all must be asked for in so many words."""
    names = [name.strip() for name in text.split(",")] if text else []
    return frozenset(name if name == ALL else read_name(name) for name in names)


def read_yes_or_no(text: str) -> bool:
    """true or false."""
    if text not in ("true", "false"):
        raise ValueError(f"{text!r} is neither true nor false")
    return text == "true"


def read_qualified_name(text: str) -> str:
    """A name such as nvidia.com/gpu."""
    prefix, slash, name = text.rpartition("/")
    if not re.fullmatch(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?", name) or (
        slash and not _DNS_SUBDOMAIN.fullmatch(prefix)
    ):
        raise ValueError(f"{text!r} should look like nvidia.com/gpu")
    return text


def read_grace_seconds(text: str) -> int:
    """Seconds that pods have to end."""
    if not text.isdecimal() or not 10 <= int(text) <= 3600:
        raise ValueError(f"{text!r} is not a number of seconds from 10 to 3600")
    return int(text)


def read_log_level(text: str) -> str:
    """The least severe level that is logged."""
    levels = ("debug", "info", "warning", "error")
    if text not in levels:
        raise ValueError(f"{text!r} is none of {', '.join(levels)}")
    return text


class TrustedFile(NamedTuple):
    """A file with certificates, and what it holds."""

    path: str = ""
    text: str = ""


def read_report_url(text: str) -> str:
    """Empty: jobs report nothing."""
    if not text:
        return ""
    problem = ValueError(
        f"{text!r} should look like https://taper-reports.taper-system.svc:8443, without a path"
    )
    try:
        parts = urlsplit(text)
        is_good = parts.scheme == "https" and bool(parts.hostname) and parts.port != 0
    except ValueError:
        raise problem from None
    if not is_good or parts.path or parts.query or parts.fragment or "@" in text or not text.isascii():
        raise problem
    return text


def read_trusted(path: str) -> TrustedFile:
    """A file with certificates; empty for none."""
    if not path:
        return TrustedFile()
    try:
        return TrustedFile(os.path.abspath(path), trusted_certificates(path))
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None

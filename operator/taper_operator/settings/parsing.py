"""The types of the operator's settings: each is read from text; an error says what would be right."""

from __future__ import annotations

import ipaddress
import os
import re
from typing import Annotated, Final, Literal, NamedTuple
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator

from taper_operator.settings.certificate import trusted_certificates

ALL: Final = "*"
_LABEL = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
_SUBDOMAIN = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
_NAME = rf"(?=.{{1,200}}\Z){_SUBDOMAIN}"


class Address(NamedTuple):
    """Where a server listens. host: an IP address, empty for all; port: 0 for a free one"""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


class LeaseTimes(NamedTuple):
    """How leaders take turns.

    duration_seconds: others take over a lease that was not renewed for this long
    renew_deadline_seconds: the leader gives up when it could not renew for this long
    retry_period_seconds: between two tries
    """

    duration_seconds: float = 10.0
    renew_deadline_seconds: float = 7.0
    retry_period_seconds: float = 2.0

    def __str__(self) -> str:
        return "/".join(f"{seconds:g}" for seconds in self)

    @property
    def is_decreasing(self) -> bool:
        """Whether each time is longer than the next; the election works only then."""
        return self.duration_seconds > self.renew_deadline_seconds > self.retry_period_seconds > 0


DEFAULT_LEASE_TIMES = LeaseTimes()


class TrustedFile(NamedTuple):
    """A file with certificates, and its content."""

    path: str = ""
    text: str = ""

    def __str__(self) -> str:
        return self.path


NO_FILE = TrustedFile()


def _matching(pattern: str, problem: str) -> AfterValidator:
    """Accepts a text that matches a pattern as a whole."""

    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(f"{text!r} {problem}" if text else "missing")
        return text

    return AfterValidator(check)


def _read_namespaces(text: str) -> tuple[str, ...]:
    """To watch all namespaces takes an explicit `*`: an unset variable must not widen what is watched."""
    if text == ALL:
        return ()
    if not text:
        raise ValueError("missing; give one namespace, several separated by commas, or * for all")
    return tuple(sorted({name.strip() for name in text.split(",")}))


def _read_secrets(text: str) -> frozenset[str]:
    return frozenset(name.strip() for name in text.split(",")) if text else frozenset()


def _read_lease_times(text: str) -> LeaseTimes:
    try:
        duration, deadline, period = (float(part) for part in text.split("/"))
    except ValueError:
        raise ValueError(f"{text!r} should look like 10/7/2") from None
    times = LeaseTimes(duration, deadline, period)
    # A Lease holds whole seconds.
    if not times.is_decreasing or not times.duration_seconds.is_integer() or times.duration_seconds > 600:
        raise ValueError(
            f"{text!r} must be lease duration / renew deadline / retry period, each shorter than "
            "the one before, the first in whole seconds up to 600"
        )
    return times


def _read_address(text: str) -> Address:
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not port.isdecimal() or int(port) > 65_535:
        raise ValueError(f"{text!r} should look like 127.0.0.1:8080, [::1]:8080 or :8080")
    if host:
        ipaddress.ip_address(host)
    return Address(host, int(port))


def _read_yes_or_no(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError(f"{text!r} is neither true nor false")
    return text == "true"


def _check_report_url(text: str) -> str:
    problem = f"{text!r} should look like https://taper-reports.taper-system.svc:8443, without a path"
    try:
        parts = urlsplit(text)
        is_good = parts.scheme == "https" and bool(parts.hostname) and parts.port != 0
    except ValueError:
        raise ValueError(problem) from None
    has_more = parts.path or parts.query or parts.fragment or "@" in text or not text.isascii()
    if text and (has_more or not is_good):
        raise ValueError(problem)
    return text


def _read_trusted(path: str) -> TrustedFile:
    try:
        return TrustedFile(os.path.abspath(path), trusted_certificates(path)) if path else TrustedFile()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None


Namespace = Annotated[str, _matching(_LABEL, "is not a namespace's name")]
Namespaces = Annotated[tuple[Namespace, ...], BeforeValidator(_read_namespaces)]
ObjectName = Annotated[str, _matching(_NAME, "is not an object's name: use lower case, digits, - and .")]
SecretName = Annotated[str, _matching(rf"\*|{_NAME}", "is not a secret's name")]
Secrets = Annotated[frozenset[SecretName], BeforeValidator(_read_secrets)]
# Empty: every job must name its own.
ImageName = Annotated[str, _matching(r"([A-Za-z0-9][-A-Za-z0-9._:/@]*)?", "is not an image's name")]
QualifiedName = Annotated[
    str,
    _matching(
        rf"({_SUBDOMAIN}/)?[A-Za-z0-9]([-A-Za-z0-9_.]{{0,61}}[A-Za-z0-9])?", "should look like nvidia.com/gpu"
    ),
]
LeaseTimesText = Annotated[LeaseTimes, PlainValidator(_read_lease_times)]
AddressText = Annotated[Address, PlainValidator(_read_address)]
YesOrNo = Annotated[bool, PlainValidator(_read_yes_or_no)]
# Empty: jobs report nothing.
ReportUrl = Annotated[str, AfterValidator(_check_report_url)]
Trusted = Annotated[TrustedFile, PlainValidator(_read_trusted)]
NumWorkers = Annotated[int, Field(ge=1, le=64)]
GraceSeconds = Annotated[int, Field(ge=10, le=3600)]
LogLevel = Literal["debug", "info", "warning", "error"]

"""The operator's settings, from flags and the environment. A flag goes before its variable.

What is wrong is told all at once, each with the name of the flag and of the variable.
"""

from __future__ import annotations

import argparse
import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn

from taper_operator.pod_policy import ALL, PodPolicy

_DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_DNS_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")


class SettingsError(ValueError):
    """Settings that the operator cannot start with; one line for each problem, beginning with its name."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """namespaces: that are watched, empty for all.

    identity: of this replica, such as its pod's name; made unique for each process by the elector
    namespace: of the operator itself, where its Lease is
    address: where health and metrics are served
    workers: how many keys are reconciled at a time
    kubeconfig: empty inside a cluster
    pod_policy: what jobs' pods may have
    """

    identity: str
    namespace: str
    namespaces: tuple[str, ...]
    lease_name: str
    lease_times: LeaseTimes
    address: Address
    workers: int
    log_level: str
    kubeconfig: str
    pod_policy: PodPolicy

    @property
    def watched_namespaces(self) -> tuple[str, ...]:
        """One reflector is needed for each of these; the empty one means all."""
        return self.namespaces or ("",)


def settings_from(arguments: Sequence[str], environment: Mapping[str, str]) -> Settings:
    """Read the settings. Raises SettingsError; `--help` ends the process, as argparse does."""
    values = _values(arguments, environment, (*_SETTINGS, *_POD_SETTINGS))
    policy = {setting.field: values.pop(setting.field) for setting in _POD_SETTINGS}
    return Settings(**values, pod_policy=PodPolicy(**policy))


def pod_policy_from(arguments: Sequence[str], environment: Mapping[str, str]) -> PodPolicy:
    """Read only what the settings say about jobs' pods. Raises SettingsError."""
    return PodPolicy(**_values(arguments, environment, _POD_SETTINGS))


def _values(
    arguments: Sequence[str], environment: Mapping[str, str], settings: Sequence[_Setting]
) -> dict[str, Any]:
    flags = vars(_parser(settings).parse_args(list(arguments)))
    problems: list[str] = []
    values: dict[str, Any] = {}
    for setting in settings:
        text = flags[setting.field]
        if text is None:
            text = environment.get(setting.variable, setting.default)
        try:
            values[setting.field] = setting.read(text.strip())
        except ValueError as error:
            problems.append(f"{setting.flag} ({setting.variable}): {error}")
    if problems:
        raise SettingsError(problems)
    return values


# -- what each text must be ------------------------------------------------------------


def _namespace(text: str) -> str:
    if not _DNS_LABEL.fullmatch(text):
        raise ValueError(f"{text!r} is no name of a namespace")
    return text


def _namespaces(text: str) -> tuple[str, ...]:
    """All namespaces must be asked for in so many words: a lost variable must not widen what is watched."""
    if text == "*":
        return ()
    if not text:
        raise ValueError("missing; give one namespace, several with commas between them, or * for all")
    names = [_namespace(name.strip()) for name in text.split(",")]
    return tuple(sorted(set(names)))


def _name(text: str) -> str:
    if not text:
        raise ValueError("missing")
    if len(text) > 200 or not _DNS_SUBDOMAIN.fullmatch(text):
        raise ValueError(f"{text!r} is no name of an object: lower case, digits, - and . only")
    return text


def _lease_times(text: str) -> LeaseTimes:
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


def _address(text: str) -> Address:
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not port.isdecimal() or int(port) > 65_535:
        raise ValueError(f"{text!r} should look like 127.0.0.1:8080, [::1]:8080 or :8080")
    if host:
        ipaddress.ip_address(host)
    return Address(host, int(port))


def _workers(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 64:
        raise ValueError(f"{text!r} is not a number from 1 to 64")
    return int(text)


def _image(text: str) -> str:
    """Empty: every job must name its own."""
    if text and not re.fullmatch(r"[A-Za-z0-9][-A-Za-z0-9._:/@]*", text):
        raise ValueError(f"{text!r} is no name of an image")
    return text


def _secrets(text: str) -> frozenset[str]:
    """None unless named; all must be asked for in so many words."""
    names = [name.strip() for name in text.split(",")] if text else []
    return frozenset(name if name == ALL else _name(name) for name in names)


def _yes_or_no(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError(f"{text!r} is neither true nor false")
    return text == "true"


def _qualified_name(text: str) -> str:
    prefix, slash, name = text.rpartition("/")
    if not re.fullmatch(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?", name) or (
        slash and not _DNS_SUBDOMAIN.fullmatch(prefix)
    ):
        raise ValueError(f"{text!r} should look like nvidia.com/gpu")
    return text


def _grace_seconds(text: str) -> int:
    if not text.isdecimal() or not 10 <= int(text) <= 3600:
        raise ValueError(f"{text!r} is not a number of seconds from 10 to 3600")
    return int(text)


def _log_level(text: str) -> str:
    levels = ("debug", "info", "warning", "error")
    if text not in levels:
        raise ValueError(f"{text!r} is none of {', '.join(levels)}")
    return text


class _Setting(NamedTuple):
    field: str
    flag: str
    variable: str
    default: str
    read: Callable[[str], Any]
    meaning: str


_SETTINGS = (
    _Setting(
        "namespaces",
        "--namespaces",
        "TAPER_OPERATOR_NAMESPACES",
        "",
        _namespaces,
        "namespaces to watch, with commas between them, or * for all",
    ),
    _Setting("identity", "--identity", "POD_NAME", "", _name, "name of this replica"),
    _Setting("namespace", "--namespace", "POD_NAMESPACE", "", _namespace, "namespace of the operator itself"),
    _Setting(
        "lease_name",
        "--lease-name",
        "TAPER_OPERATOR_LEASE_NAME",
        "taper-operator",
        _name,
        "name of the Lease",
    ),
    _Setting(
        "lease_times",
        "--lease-seconds",
        "TAPER_OPERATOR_LEASE_SECONDS",
        "10/7/2",
        _lease_times,
        "lease duration / renew deadline / retry period",
    ),
    _Setting(
        "address",
        "--address",
        "TAPER_OPERATOR_ADDRESS",
        ":8080",
        _address,
        "where to serve /healthz, /readyz and /metrics",
    ),
    _Setting("workers", "--workers", "TAPER_OPERATOR_WORKERS", "4", _workers, "jobs reconciled at a time"),
    _Setting(
        "log_level",
        "--log-level",
        "TAPER_OPERATOR_LOG_LEVEL",
        "info",
        _log_level,
        "debug, info, warning or error",
    ),
    _Setting("kubeconfig", "--kubeconfig", "KUBECONFIG", "", str, "only outside a cluster"),
)


# What jobs' pods may have; `render` reads these only.
_POD_SETTINGS = (
    _Setting("image", "--image", "TAPER_OPERATOR_IMAGE", "", _image, "image of jobs that name none"),
    _Setting(
        "allowed_secrets",
        "--allowed-secrets",
        "TAPER_OPERATOR_ALLOWED_SECRETS",
        "",
        _secrets,
        "secrets that jobs may name, with commas between them, or * for all of their namespace",
    ),
    _Setting(
        "allows_ipc_lock",
        "--allow-ipc-lock",
        "TAPER_OPERATOR_ALLOW_IPC_LOCK",
        "false",
        _yes_or_no,
        "whether pods with RDMA may have the capability IPC_LOCK: true or false",
    ),
    _Setting(
        "gpu_resource",
        "--gpu-resource",
        "TAPER_OPERATOR_GPU_RESOURCE",
        "nvidia.com/gpu",
        _qualified_name,
        "resource of a GPU",
    ),
    _Setting(
        "gpu_label",
        "--gpu-label",
        "TAPER_OPERATOR_GPU_LABEL",
        "nvidia.com/gpu.product",
        _qualified_name,
        "node label that names the type of a GPU",
    ),
    _Setting(
        "kuberay_namespace",
        "--kuberay-namespace",
        "TAPER_OPERATOR_KUBERAY_NAMESPACE",
        "kuberay-system",
        _namespace,
        "namespace of KubeRay's operator, which may reach heads",
    ),
    _Setting(
        "prometheus_namespace",
        "--prometheus-namespace",
        "TAPER_OPERATOR_PROMETHEUS_NAMESPACE",
        "monitoring",
        _namespace,
        "namespace of Prometheus, which may reach metrics",
    ),
    _Setting(
        "grace_seconds",
        "--grace-seconds",
        "TAPER_OPERATOR_GRACE_SECONDS",
        "60",
        _grace_seconds,
        "time that pods have to end, where the job says nothing",
    ),
)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise SettingsError([message])


def _parser(settings: Sequence[_Setting]) -> argparse.ArgumentParser:
    parser = _Parser(prog="taper-operator", allow_abbrev=False, formatter_class=argparse.RawTextHelpFormatter)
    for setting in settings:
        default = f" [{setting.default}]" if setting.default else ""
        parser.add_argument(
            setting.flag, dest=setting.field, help=f"{setting.meaning} ({setting.variable}){default}"
        )
    return parser

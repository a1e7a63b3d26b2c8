"""The operator's settings, from flags and the environment. A flag takes precedence over its variable.

All problems are reported at once, each with the name of the flag and of the variable.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NoReturn, TypeVar

from pydantic import TypeAdapter, ValidationError

from taper_operator.settings.parsing import (
    DEFAULT_LEASE_TIMES,
    Address,
    AddressText,
    LeaseTimesText,
    LogLevel,
    Namespace,
    Namespaces,
    NumWorkers,
    ObjectName,
)
from taper_operator.settings.pod_policy import PodPolicy
from taper_operator.settings.setting import Setting, settings_of

_HEALTH, _REPORTS = Address("", 8080), Address("", 8443)
_Holder = TypeVar("_Holder")


class SettingsError(ValueError):
    """Settings that the operator cannot start with; one line for each problem, beginning with its name."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """namespaces: empty for all
    identity: made unique for each process by the elector
    kubeconfig: empty inside a cluster
    report_certificate, report_key: files, reloaded when they change
    pod_policy: what jobs' pods may have; with its `report_url`, jobs report to the operator
    """

    namespaces: Annotated[
        Namespaces, Setting("namespaces to watch, separated by commas, or * for all of them")
    ]
    identity: Annotated[ObjectName, Setting("name of this replica", variable="POD_NAME")]
    namespace: Annotated[Namespace, Setting("the operator's own namespace", variable="POD_NAMESPACE")]
    lease_name: Annotated[ObjectName, Setting("name of the Lease")] = "taper-operator"
    lease_times: Annotated[
        LeaseTimesText, Setting("lease duration / renew deadline / retry period", flag="--lease-seconds")
    ] = DEFAULT_LEASE_TIMES
    address: Annotated[AddressText, Setting("address that serves /healthz, /readyz and /metrics")] = _HEALTH
    workers: Annotated[NumWorkers, Setting("number of jobs reconciled at a time")] = 4
    log_level: Annotated[LogLevel, Setting("debug, info, warning or error")] = "info"
    kubeconfig: Annotated[str, Setting("kubeconfig file, outside a cluster only", variable="KUBECONFIG")] = ""
    report_address: Annotated[AddressText, Setting("address that receives the jobs' reports")] = _REPORTS
    report_certificate: Annotated[
        str, Setting("file with the certificate, and its chain, for the host of --report-url")
    ] = ""
    report_key: Annotated[str, Setting("file with the key of that certificate")] = ""
    pod_policy: PodPolicy

    @property
    def watched_namespaces(self) -> tuple[str, ...]:
        """One reflector is needed for each of these; the empty one means all."""
        return self.namespaces or ("",)


RUN_SETTINGS = settings_of(Settings)
# `render` reads only these.
POD_SETTINGS = settings_of(PodPolicy)


def settings_from(arguments: Sequence[str], environment: Mapping[str, str]) -> Settings:
    """Read the settings. Raises SettingsError; `--help` ends the process, as argparse does."""
    texts = _texts(arguments, environment, (*RUN_SETTINGS, *POD_SETTINGS))
    policy = {row.field: texts.pop(row.field) for row in POD_SETTINGS}
    settings = _validated(Settings, texts | {"pod_policy": policy})
    _check_all_or_none(texts | policy, "report_url", "report_ca", "report_certificate", "report_key")
    return settings


def pod_policy_from(arguments: Sequence[str], environment: Mapping[str, str]) -> PodPolicy:
    """Read only what the settings say about jobs' pods. Raises SettingsError."""
    texts = _texts(arguments, environment, POD_SETTINGS)
    policy = _validated(PodPolicy, texts)
    _check_all_or_none(texts, "report_url", "report_ca")
    return policy


def _check_all_or_none(texts: Mapping[str, str], *fields: str) -> None:
    """Raises SettingsError where some of these are given and some are not."""
    missing = [_LABELS[field] for field in fields if not texts[field]]
    if missing and len(missing) < len(fields):
        others = ", ".join(_LABELS[field] for field in fields if texts[field])
        raise SettingsError([f"{label}: missing; it is needed with {others}" for label in missing])


def _texts(
    arguments: Sequence[str], environment: Mapping[str, str], rows: Sequence[Setting]
) -> dict[str, str]:
    """The text of each setting: the flag's, else the variable's, else the default."""
    parser = _Parser(prog="taper-operator", allow_abbrev=False, formatter_class=argparse.RawTextHelpFormatter)
    for row in rows:
        text = environment.get(row.variable, row.default)
        shown = f" [{row.default}]" if row.default else ""
        parser.add_argument(
            row.flag, dest=row.field, default=text, help=f"{row.meaning} ({row.variable}){shown}"
        )
    return {name: text.strip() for name, text in vars(parser.parse_args(list(arguments))).items()}


def _validated(holder: type[_Holder], texts: Mapping[str, Any]) -> _Holder:
    try:
        return TypeAdapter(holder).validate_python(texts)
    except ValidationError as error:
        raise SettingsError([_problem(dict(each)) for each in error.errors()]) from None


def _problem(error: Mapping[str, Any]) -> str:
    """One line from an entry of `ValidationError.errors()`."""
    label = next(_LABELS[name] for name in error["loc"] if name in _LABELS)
    if error["type"] == "value_error":
        return f"{label}: {error['ctx']['error']}"
    return f"{label}: {error['input']!r} {error['msg'].removeprefix('Input ')}"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise SettingsError([message])


_LABELS = {row.field: row.label for row in (*RUN_SETTINGS, *POD_SETTINGS)}

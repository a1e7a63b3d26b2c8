"""The operator's settings, from flags and the environment. A flag goes before its variable.

What is wrong is told all at once, each with the name of the flag and of the variable.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from taper_operator.settings.parsing import Address, LeaseTimes
from taper_operator.settings.pod_policy import PodPolicy
from taper_operator.settings.table import POD_SETTINGS, RUN_SETTINGS, Setting

__all__ = ["Address", "LeaseTimes", "Settings", "SettingsError", "pod_policy_from", "settings_from"]


class SettingsError(ValueError):
    """Settings that the operator cannot start with; one line for each problem, beginning with its name."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """namespaces: that are watched, empty for all.

    identity: of this replica, such as its pod's name; made unique for each process by the elector
    namespace: of the operator itself, where its Lease is
    address: where health and metrics are served
    workers: how many keys are reconciled at a time
    kubeconfig: empty inside a cluster
    pod_policy: what jobs' pods may have; with its `report_url`, jobs report to the operator
    report_address: where they are listened to
    report_certificate, report_key: files, in PEM form, by which the operator shows itself to them; both
        are read anew when they change
    report_ca_file: the file that `pod_policy.report_ca` was read from; it is read anew too
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
    report_address: Address
    report_certificate: str
    report_key: str
    report_ca_file: str
    pod_policy: PodPolicy

    @property
    def watched_namespaces(self) -> tuple[str, ...]:
        """One reflector is needed for each of these; the empty one means all."""
        return self.namespaces or ("",)


def settings_from(arguments: Sequence[str], environment: Mapping[str, str]) -> Settings:
    """Read the settings. Raises SettingsError; `--help` ends the process, as argparse does."""
    values = _values(arguments, environment, (*RUN_SETTINGS, *POD_SETTINGS))
    _check_all_or_none(values, "report_url", "report_ca", "report_certificate", "report_key")
    policy = {setting.field: values.pop(setting.field) for setting in POD_SETTINGS}
    return Settings(**values, report_ca_file=policy["report_ca"].path, pod_policy=_pod_policy(policy))


def pod_policy_from(arguments: Sequence[str], environment: Mapping[str, str]) -> PodPolicy:
    """Read only what the settings say about jobs' pods. Raises SettingsError."""
    values = _values(arguments, environment, POD_SETTINGS)
    _check_all_or_none(values, "report_url", "report_ca")
    return _pod_policy(values)


def _pod_policy(values: dict[str, Any]) -> PodPolicy:
    return PodPolicy(**values | {"report_ca": values["report_ca"].text})


def _check_all_or_none(values: Mapping[str, Any], *fields: str) -> None:
    """Raises SettingsError where some of these are given and some are not."""
    names = {
        setting.field: f"{setting.flag} ({setting.variable})" for setting in (*RUN_SETTINGS, *POD_SETTINGS)
    }
    missing = [names[field] for field in fields if not any(values[field])]
    if missing and len(missing) < len(fields):
        others = ", ".join(names[field] for field in fields if any(values[field]))
        raise SettingsError([f"{name}: missing; it goes with {others}" for name in missing])


def _values(
    arguments: Sequence[str], environment: Mapping[str, str], settings: Sequence[Setting]
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


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise SettingsError([message])


def _parser(settings: Sequence[Setting]) -> argparse.ArgumentParser:
    parser = _Parser(prog="taper-operator", allow_abbrev=False, formatter_class=argparse.RawTextHelpFormatter)
    for setting in settings:
        default = f" [{setting.default}]" if setting.default else ""
        parser.add_argument(
            setting.flag, dest=setting.field, help=f"{setting.meaning} ({setting.variable}){default}"
        )
    return parser

"""The reference of the operator, made from the tables that it goes by."""

from __future__ import annotations

import re
from types import SimpleNamespace

from taper_operator.main import watched_kinds
from taper_operator.manager import Manager
from taper_operator.metrics import PREFIX
from taper_operator.reason_table import ATTEMPTS, CONDITIONS, EVENTS, OF_OTHERS
from taper_operator.reports.refusal import STATUSES
from taper_operator.settings.settings import POD_SETTINGS, RUN_SETTINGS, settings_from

_HEAD = """\
# Reference of the operator

<!-- Made by `make docs` from taper_operator; do not edit. -->

What it says, what it is told, and what it tells Prometheus. [How it works](operator.md) is another page.
"""
_FAMILY = re.compile(r"# HELP (?P<name>\S+) (?P<meaning>.*)\n# TYPE \S+ (?P<kind>\S+)")
# The least that settings may say.
_SETTINGS = ("--namespaces=*", "--identity=a", "--namespace=a")


def operator_reference() -> str:
    """The whole page, as Markdown."""
    return "\n".join([_HEAD, _conditions(), _attempts(), _events(), _settings(), _metrics()])


def _table(head: str, *rows: tuple[str, ...]) -> str:
    columns = head.count("|") + 1
    lines = [f"| {head} |", "|" + "---|" * columns, *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines) + "\n"


def _reason(reason: str) -> str:
    return "others'" if reason == OF_OTHERS else f"`{reason}`"


def _conditions() -> str:
    rows = [(f"`{each.condition}`", each.status, _reason(each.reason), each.meaning) for each in CONDITIONS]
    return "## Conditions\n\n" + _table("condition | is | reason | meaning", *rows)


def _attempts() -> str:
    rows = [(each.outcome, _reason(each.reason), each.meaning) for each in ATTEMPTS]
    text = "Of `status.attempts[]`. Only `Failed` counts against `spec.backoffLimit`.\n"
    return f"## Ends of attempts\n\n{text}\n" + _table("outcome | reason | meaning", *rows)


def _events() -> str:
    rows = [(f"`{each.reason}`", each.kind, each.meaning) for each in EVENTS]
    return "## Events\n\n" + _table("reason | type | meaning", *rows)


def _settings() -> str:
    rows = [
        (f"`{each.flag}`", f"`{each.variable}`", f"`{each.default}`" if each.default else "", each.meaning)
        for each in (*RUN_SETTINGS, *POD_SETTINGS)
    ]
    text = (
        "Of `taper-operator run`; the chart's values set them. `taper-operator render` takes those from "
        f"`{POD_SETTINGS[0].flag}` on. A flag goes before its variable.\n"
    )
    return f"## Settings\n\n{text}\n" + _table("flag | variable | default | meaning", *rows)


def _metrics() -> str:
    rows = [
        (f"`{name}`", kind, meaning)
        for name, meaning, kind in _FAMILY.findall(_exposition())
        if name.startswith(PREFIX) and not name.endswith("_created")
    ]
    results = ", ".join(f"`{result}`" for result in STATUSES)
    text = (
        "`GET /metrics` of each replica, on `--address`, has these beside the usual ones of a process.\n"
        f"`result` of `taper_operator_reports_total` is one of {results}.\n"
    )
    return f"## Metrics\n\n{text}\n" + _table("metric | type | meaning", *rows)


def _exposition() -> str:
    """What an operator that has done nothing yet would tell."""
    # Nobody asks it anything.
    client = SimpleNamespace(rest_client=SimpleNamespace(pool_manager=SimpleNamespace()))
    manager = Manager(settings_from(_SETTINGS, {}), watched_kinds(), make_client=lambda kubeconfig: client)
    manager.controller(lambda key: None)
    return manager.metrics.exposition()[0].decode()

"""The operator's settings and metrics as tables, from the code that defines them."""

from __future__ import annotations

import re
from types import SimpleNamespace

from taper_operator.main import watched_kinds
from taper_operator.manager import Manager
from taper_operator.metrics import PREFIX
from taper_operator.reports.refusal import STATUSES
from taper_operator.settings.settings import POD_SETTINGS, RUN_SETTINGS, settings_from

BEGIN = "<!-- settings and metrics: made by `make docs` -->\n"
FAMILY = re.compile(r"# HELP (?P<name>\S+) (?P<meaning>.*)\n# TYPE \S+ (?P<kind>\S+)")
MINIMAL_SETTINGS = ("--namespaces=*", "--identity=a", "--namespace=a")


def with_operator_tables(page: str) -> str:
    """The page with its end, the tables, updated. Raises ValueError if it has no place for them."""
    before, begin, _ = page.partition(BEGIN)
    if not begin:
        raise ValueError(f"the page has no {BEGIN.strip()}")
    return f"{before}{begin}\n{_settings()}\n{_metrics()}"


def _table(head: str, *rows: tuple[str, ...]) -> str:
    columns = head.count("|") + 1
    lines = [f"| {head} |", "|" + "---|" * columns, *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines) + "\n"


def _settings() -> str:
    rows = [
        (f"`{each.flag}`", f"`{each.variable}`", f"`{each.default}`" if each.default else "", each.meaning)
        for each in (*RUN_SETTINGS, *POD_SETTINGS)
    ]
    text = (
        "For `taper-operator run`; the chart's values set them. `taper-operator render` accepts those from "
        f"`{POD_SETTINGS[0].flag}` on. A flag takes precedence over its variable.\n"
    )
    return f"## Settings\n\n{text}\n" + _table("flag | variable | default | meaning", *rows)


def _metrics() -> str:
    rows = [
        (f"`{name}`", kind, meaning)
        for name, meaning, kind in FAMILY.findall(_exposition())
        if name.startswith(PREFIX) and not name.endswith("_created")
    ]
    results = ", ".join(f"`{result}`" for result in STATUSES)
    text = (
        "`GET /metrics` of each replica, on `--address`, has these, and the usual ones of a process.\n"
        f"`result` of `taper_operator_reports_total` is one of {results}.\n"
    )
    return f"## Metrics\n\n{text}\n" + _table("metric | type | meaning", *rows)


def _exposition() -> str:
    """The metrics of an operator that has just started."""
    # It is never used.
    client = SimpleNamespace(rest_client=SimpleNamespace(pool_manager=SimpleNamespace()))
    settings = settings_from(MINIMAL_SETTINGS, {})
    manager = Manager(settings, watched_kinds(), make_client=lambda kubeconfig: client)
    manager.controller(lambda key: None)
    return manager.metrics.exposition()[0].decode()

"""Grafana's dashboards: every query is about metrics that there are, and finds series.

Grafana itself is nowhere to be had for tests, so a dashboard's queries are asked of Prometheus' own
promtool, over series made from the table of metrics; without promtool that part is skipped.
"""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from taper_rollout.metrics.definitions import METRICS, Metric

ROOT = Path(__file__).parents[2]
DASHBOARDS = sorted((ROOT / "manifests" / "grafana").glob("*.json"))
RULES = ROOT / "manifests" / "prometheus" / "rules" / "taper.yaml"
RULE_TESTS = ROOT / "manifests" / "prometheus" / "tests" / "taper.yaml"
# Which Prometheus adds to what it reads of a job's pods: `manifests/shared_objects.py`.
TARGET_LABELS = {"namespace": "team", "pod": "big-1-gpu-0", "taper_dev_job": "big"}
SUFFIXES = {"histogram": ("_bucket", "_sum", "_count"), "summary": ("_sum", "_count")}
VARIABLES = {"$__rate_interval": "5m", "$namespace": ".*", "$job": ".*", "$replica": ".*"}
NAME = re.compile(r"\btaper_[a-z_]+")
GROUPING = re.compile(r"\b(?:by|on|ignoring|group_left)\s*\(([^)]*)\)")


def dashboard(file: Path) -> dict[str, Any]:
    return dict(json.loads(file.read_text()))


def queries(file: Path) -> list[str]:
    return [target["expr"] for panel in dashboard(file)["panels"] for target in panel.get("targets", [])]


def series(metric: Metric) -> list[str]:
    """Names of the series of a metric."""
    return [f"{metric.name}{suffix}" for suffix in SUFFIXES.get(metric.kind, ("",))]


KNOWN = {name: metric for metric in METRICS for name in series(metric)}


def metric_names(expression: str) -> set[str]:
    """Without the labels, some of which begin like a metric."""
    return set(NAME.findall(GROUPING.sub("", expression))) - set(TARGET_LABELS)


def labels(expression: str) -> set[str]:
    chosen = re.findall(r"([a-z_]+)\s*=~?", " ".join(re.findall(r"\{([^}]*)\}", expression)))
    grouped = [name for part in GROUPING.findall(expression) for name in re.split(r"[\s,]+", part) if name]
    return {*chosen, *grouped}


@pytest.mark.parametrize("file", DASHBOARDS, ids=lambda file: file.name)
def test_dashboards_query_existing_metrics_and_labels(file: Path) -> None:
    assert len(queries(file)) >= 9
    for expression in queries(file):
        names = metric_names(expression)
        assert names
        assert names <= set(KNOWN), expression
        known = {label.name for name in names for label in KNOWN[name].labels}
        assert labels(expression) <= known | set(TARGET_LABELS) | {"le"}, expression
        for ranges in re.findall(r"\[([^\]]*)\]", expression):
            assert ranges == "$__rate_interval"


@pytest.mark.parametrize("file", DASHBOARDS, ids=lambda file: file.name)
def test_a_dashboard_can_be_read_and_moved(file: Path) -> None:
    content = dashboard(file)
    assert "id" not in content
    variables = {variable["name"]: variable for variable in content["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert {"namespace", "job", "replica"} <= set(variables)
    panels = [panel for panel in content["panels"] if panel["type"] != "row"]
    assert len({panel["id"] for panel in content["panels"]}) == len(content["panels"])
    for panel in panels:
        assert panel["title"]
        assert panel["description"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert all(target["datasource"] == panel["datasource"] for target in panel["targets"])
    assert not list(overlapping(panels))


def overlapping(panels: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    for one, two in itertools.combinations(panels, 2):
        a, b = one["gridPos"], two["gridPos"]
        if all(a[at] < b[at] + b[size] and b[at] < a[at] + a[size] for at, size in (("x", "w"), ("y", "h"))):
            yield one["title"], two["title"]


def test_each_dashboard_has_a_name_of_its_own() -> None:
    assert DASHBOARDS
    ids = [dashboard(file)["uid"] for file in DASHBOARDS]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"taper-[a-z-]{1,34}", each) for each in ids)


def test_the_first_dashboard_shows_what_switches_cost_and_how_batches_shrink() -> None:
    asked = set().union(*(metric_names(expression) for file in DASHBOARDS for expression in queries(file)))
    assert {"taper_batch_shrink_ratio", "taper_pause_seconds_bucket"} <= asked


def promtool(*arguments: str) -> None:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not on PATH; Debian has it in the package prometheus")
    reported = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=60)
    assert reported.returncode == 0, reported.stdout + reported.stderr


def recorded(metric: Metric) -> Iterator[str]:
    """One series of each name and of each value of the labels that matter, as promtool writes them."""
    signs = next((label.values for label in metric.labels if label.values), ("",))
    for name, value in itertools.product(series(metric), signs):
        given = {label.name: (label.values or ("0",))[0] for label in metric.labels}
        given |= {label.name: value for label in metric.labels[1:2] if label.values and value in label.values}
        bounds = ["0.1", "+Inf"] if name.endswith("_bucket") else [""]
        for bound in bounds:
            written = TARGET_LABELS | given | ({"le": bound} if bound else {})
            yield f"{name}{{{', '.join(f'{key}={json.dumps(text)}' for key, text in written.items())}}}"


def test_every_dashboard_query_returns_series(tmp_path: Path) -> None:
    """A query that finds any is an alert without labels, which promtool can expect."""
    expressions = [expression for file in DASHBOARDS for expression in queries(file)]
    alerts = []
    for index, expression in enumerate(expressions):
        for variable, value in VARIABLES.items():
            expression = expression.replace(variable, value)
        alerts.append({"alert": f"Found{index}", "expr": f"count({expression}) > 0"})
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "found", "rules": alerts}]}))
    tests = {
        "rule_files": ["rules.yaml"],
        "tests": [
            {
                "interval": "1m",
                "input_series": [
                    {"series": each, "values": "1+1x20"} for metric in METRICS for each in recorded(metric)
                ],
                "alert_rule_test": [
                    {
                        "eval_time": "15m",
                        "alertname": alert["alert"],
                        "exp_alerts": [{"exp_labels": {}, "exp_annotations": {}}],
                    }
                    for alert in alerts
                ],
            }
        ],
    }
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump(tests))
    promtool("test", "rules", str(tmp_path / "tests.yaml"))


def test_alerts_fire_when_they_should_and_only_then() -> None:
    promtool("check", "rules", str(RULES))
    promtool("test", "rules", str(RULE_TESTS))


def test_every_alert_is_tested_to_fire_and_to_be_silent() -> None:
    alerts = {
        rule["alert"] for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]
    }
    fired, silent = set(), set()
    for test in yaml.safe_load(RULE_TESTS.read_text())["tests"]:
        for check in test["alert_rule_test"]:
            (fired if check.get("exp_alerts") else silent).add(check["alertname"])
    assert fired == silent == alerts


def test_alerts_query_existing_metrics() -> None:
    from taper_operator.metrics import PREFIX

    for group in yaml.safe_load(RULES.read_text())["groups"]:
        for rule in group["rules"]:
            names = metric_names(rule["expr"])
            assert names
            assert rule["labels"]["severity"] in ("critical", "warning", "info")
            assert set(rule["annotations"]) == {"summary", "description"}
            own = {name for name in names if name.startswith(PREFIX)}
            assert names - own <= set(KNOWN)
            assert own <= operator_metrics()


def operator_metrics() -> set[str]:
    """Names of the series that an operator has which has reconciled once and asked once."""
    from random import Random

    from taper_operator.kube.circuit_breaker import CircuitBreaker
    from taper_operator.kube.informer.cache import ObjectCache
    from taper_operator.kube.informer.reflector import Reflector
    from taper_operator.kube.informer.work_queue import WorkQueue
    from taper_operator.manifests.kinds import PODS
    from taper_operator.metrics import CurrentValues, OperatorMetrics

    class Elector:
        def is_leader_now(self) -> bool:
            return True

    def clock() -> float:
        return 0.0

    reflector = Reflector(
        None,  # type: ignore[arg-type]
        PODS,
        ObjectCache(keys_of=lambda obj: ()),
        deliver=lambda key: None,
        clock=clock,
        random=Random(1),
    )
    metrics = OperatorMetrics()
    metrics.observe_reconcile("success", 1.0)
    metrics.observe_request("GET", 200)
    metrics.watch(
        CurrentValues(
            queue=WorkQueue(clock=clock, random=Random(1)),
            reflectors=[reflector],
            elector=Elector(),  # type: ignore[arg-type]
            breaker=CircuitBreaker(clock=clock, random=Random(1)),
        )
    )
    exposition, _ = metrics.exposition()
    return {
        re.split(r"[ {]", line, maxsplit=1)[0] for line in exposition.decode().splitlines() if line[0] != "#"
    }

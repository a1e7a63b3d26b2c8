"""The chart as helm renders it, with a real helm; without one the tests that need it are skipped."""

from __future__ import annotations

import functools
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from ..cluster.control_plane.cluster_tools import NoTools, find

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "taper"
MONITORING = "monitoring.coreos.com/v1"
# Of the release in these tests.
RELEASE, NAMESPACE = "taper", "taper-system"
SERVICE_ACCOUNT = {"kind": "ServiceAccount", "name": RELEASE, "namespace": NAMESPACE}

Values = dict[str, Any]
KubeObject = dict[str, Any]


def helm_program() -> Path:
    """A test without helm is skipped with the reason."""
    try:
        return find("helm")
    except NoTools as error:
        pytest.skip(str(error))


def helm(*arguments: str, values: Values | None = None) -> subprocess.CompletedProcess[str]:
    """What helm says."""
    return subprocess.run(
        [helm_program(), *arguments, "--values=-"],
        input=json.dumps(values or {}),
        capture_output=True,
        text=True,
        timeout=30,
        # No settings or plugins of a user.
        env={"HOME": "/nonexistent"},
    )


def template(
    values: Values | None = None, *options: str, has_monitoring: bool = True
) -> subprocess.CompletedProcess[str]:
    apis = [f"--api-versions={MONITORING}"] if has_monitoring else []
    return helm("template", RELEASE, str(CHART), f"--namespace={NAMESPACE}", *apis, *options, values=values)


def text(values: Values | None = None, *, has_monitoring: bool = True) -> str:
    """The chart rendered."""
    return _text(json.dumps(values or {}), has_monitoring)


@functools.cache
def _text(values: str, has_monitoring: bool) -> str:
    reported = template(json.loads(values), has_monitoring=has_monitoring)
    assert reported.returncode == 0, reported.stderr
    return reported.stdout


def objects(values: Values | None = None, *, has_monitoring: bool = True) -> list[KubeObject]:
    """The rendered objects of the chart, without the CRDs, which are long."""
    values = {"crds": {"install": False}} | (values or {})
    found = yaml.load_all(text(values, has_monitoring=has_monitoring), yaml.CSafeLoader)
    return [obj for obj in found if obj is not None]


def of_kind(kind: str, found: list[KubeObject]) -> list[KubeObject]:
    return [obj for obj in found if obj["kind"] == kind]


def operator_pod(values: Values | None = None) -> dict[str, Any]:
    (deployment,) = of_kind("Deployment", objects(values))
    return dict(deployment["spec"]["template"]["spec"])


def refusal(values: Values) -> str:
    """What helm says of values that the chart does not take."""
    reported = template(values)
    assert reported.returncode != 0, f"taken: {values}"
    return reported.stderr


def nested(path: str, value: Any) -> Values:
    """Values with one of them set, at a dotted path."""
    for name in reversed(path.split(".")):
        value = {name: value}
    return dict(value)

"""Renders the chart for those who install without helm, into manifests/install: `make manifests`.

It needs helm, which `make cluster-tools` builds; a test fails when one of the files is stale.
"""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
CHART = ROOT / "charts" / "taper"
INSTALL = ROOT / "manifests" / "install"
NAMESPACE = "taper-system"
MONITORING = ("servicemonitor", "alerts", "dashboards")
_HEAD = "# Made by `make manifests` from charts/taper; do not edit.\n"
# What only helm reads, or what says where helm found it.
_HELMS = re.compile(
    r"^(# Source: .*| +helm\.sh/chart: .*| +app\.kubernetes\.io/managed-by: Helm)\n", re.MULTILINE
)
_OWN_NAMESPACE = f"""\
apiVersion: v1
kind: Namespace
metadata:
  name: {NAMESPACE}
  labels:
    pod-security.kubernetes.io/enforce: restricted
"""


def files(helm: Path) -> dict[Path, str]:
    """Place and content of each file."""
    # Of the certificate for reports only the name: a key is nothing to publish.
    operator = [
        "--set=crds.install=false",
        "--set=dashboards.create=false",
        "--set=reports.secretName=taper-reports",
    ]
    monitoring = [f"--show-only=templates/observability/{name}.yaml" for name in MONITORING]
    rendered = {
        "all-namespaces.yaml": _OWN_NAMESPACE + _template(helm, *operator, "--set=watchNamespaces={*}"),
        "one-namespace.yaml": _OWN_NAMESPACE + _template(helm, *operator),
        "monitoring.yaml": _template(
            helm, *monitoring, "--set=serviceMonitor.create=always", "--set=alerts.create=always"
        ),
    }
    return {INSTALL / name: _HEAD + content for name, content in rendered.items()}


def _template(helm: Path, *options: str) -> str:
    command = [helm, "template", "taper", CHART, f"--namespace={NAMESPACE}", *options]
    told = subprocess.run(command, check=True, capture_output=True, text=True, env={"HOME": "/nonexistent"})
    return _HELMS.sub("", told.stdout)


if __name__ == "__main__":
    find = runpy.run_path(str(ROOT / "tests" / "cluster" / "control_plane" / "cluster_tools.py"))["find"]
    for file, content in files(find("helm")).items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content, encoding="utf-8")
        sys.stdout.write(f"manifests: wrote {file.relative_to(ROOT)}\n")

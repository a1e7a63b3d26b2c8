"""Generates what follows from the code: pages of docs/, CRDs, and the chart's copies of files of manifests/.

Run by `make docs`. A test fails when a file is stale.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from rooms import with_rooms

from taper_api.schema.crd import crd_files
from taper_api.schema.reference import configuration_reference
from taper_operator.reference import operator_reference
from taper_rollout.job.support_matrix import support_matrix
from taper_rollout.metrics.reference import metric_page

DOCS = Path(__file__).parent
MANIFESTS = DOCS.parent / "manifests"
CRDS = MANIFESTS / "crds"
CHART = DOCS.parent / "charts" / "taper"
# Helm reads no file outside of a chart.
COPIED = {"grafana": "dashboards", "prometheus/rules": "rules"}
_VALUES_HEAD = """\
# Values

<!-- Made by `make docs` from values.schema.json and values.yaml; do not edit. -->

A value that is not in this table, or not of its type, is an error that names it.

| value | type | default | meaning |
|---|---|---|---|
"""


def pages() -> dict[str, str]:
    """File name in docs/ and content of each page that is generated, or has a part that is."""
    return {
        "architecture.md": with_rooms((DOCS / "architecture.md").read_text(encoding="utf-8")),
        "configuration.md": configuration_reference(),
        "metrics.md": metric_page(),
        "operator-reference.md": operator_reference(),
        "support-matrix.md": support_matrix(),
    }


def chart_files() -> dict[str, str]:
    """File name in the chart and content of each generated file of it."""
    crds = {f"files/crds/{name}": content for name, content in crd_files().items()}
    copies = {
        f"files/{target}/{file.name}": file.read_text(encoding="utf-8")
        for source, target in COPIED.items()
        for file in sorted((MANIFESTS / source).iterdir())
    }
    return crds | copies | {"VALUES.md": values_page()}


def values_page() -> str:
    """The chart's values as a table."""
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    return _VALUES_HEAD + "".join(_value_rows(schema, values, ""))


def _value_rows(block: dict[str, Any], values: dict[str, Any], path: str) -> Iterator[str]:
    for name, field in block["properties"].items():
        if name not in values:
            continue
        if "properties" in field and "description" in next(iter(field["properties"].values())):
            yield f"| `{path}{name}` | | | {field['description']} |\n"
            yield from _value_rows(field, values[name], f"{path}{name}.")
        else:
            default = json.dumps(values[name])
            yield f"| `{path}{name}` | {_type(field)} | `{default}` | {field['description']} |\n"


def _type(field: dict[str, Any]) -> str:
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if "minimum" in field:
        return f"{field['type']} from {field['minimum']} to {field['maximum']}"
    return str(field.get("type", "mapping of texts")).replace("object", "mapping").replace("array", "list")


def files() -> dict[Path, str]:
    """Place and content of each generated file."""
    crds = {CRDS / name: content for name, content in crd_files().items()}
    chart = {CHART / name: content for name, content in chart_files().items()}
    return {DOCS / name: content for name, content in pages().items()} | crds | chart


if __name__ == "__main__":
    for file, content in files().items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content, encoding="utf-8")
        print(f"docs: wrote {file.relative_to(DOCS.parent)}")

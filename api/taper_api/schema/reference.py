"""The configuration reference, made from the models so that it cannot disagree with them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from taper_api.job.rollout_spec import MAX_INTEGER
from taper_api.rlhfjob import RLHFJob
from taper_api.rules.rlhfjob_rules import RULES
from taper_api.rules.verl_rules import SETTLED_BY_FIELD

Schema = dict[str, Any]

_HEAD = """\
# Configuration reference

<!-- Made by `make docs` from taper_api; do not edit. -->

A job is one YAML file in Kubernetes form. Unknown fields, values of the wrong type and fields that
contradict each other are errors that name the field. Relative paths are relative to the file.
`taper run -f job.yaml --dry-run` prints the VeRL configuration that a job becomes.

```yaml
apiVersion: taper.dev/v1alpha1
kind: RLHFJob
metadata:
  name: demo
spec:
  model: {path: Qwen/Qwen3-8B, dtype: bfloat16}
  data: {train: [train.parquet], maxPromptTokens: 1024}
  reward: {function: "rewards.py:score"}
  training: {steps: 100, batchPrompts: 64, ranks: 8}
  rollout:
    footprint: 4
    samplesPerPrompt: 8
    responseTokens: 8192
    policy: {name: threshold, threshold: {requests: 8}}
```
"""


def configuration_reference() -> str:
    """The whole page, as Markdown."""
    schema = RLHFJob.model_json_schema(by_alias=True)
    tables = "\n".join(_tables(schema, schema["$defs"], "", {}))
    return f"{_HEAD}\n{tables}\n{_rules()}\n{_settled()}"


def _tables(schema: Schema, definitions: dict[str, Schema], path: str, told: dict[str, str]) -> Iterator[str]:
    """A table for a block, then those of the blocks in it, depth first. `told`: the paths of tables so far.

    A block that has a table already is not told a second time.
    """
    blocks: list[tuple[str, Schema]] = []
    rows = []
    required = schema.get("required", [])
    for name, field in schema["properties"].items():
        full_path = f"{path}.{name}" if path else name
        block, is_list = _block(field, definitions)
        if block is not None and block["title"] not in told:
            blocks.append((f"{full_path}[]" if is_list else full_path, block))
        default = "required" if name in required else "" if block is not None else _default(field)
        meaning = field.get("description") or _summary(block or {})
        title = (block or {}).get("title", "")
        if title in told:
            meaning = f"{meaning} As `{told[title]}`."
        rows.append(f"| `{name}` | {_type(field, definitions)} | {default} | {_escape(meaning)} |")
    yield f"## `{path or 'RLHFJob'}`\n"
    yield f"{_summary(schema)}\n"
    yield "| field | type | default | meaning |\n|---|---|---|---|"
    yield "\n".join(rows) + "\n"
    for block_path, block in blocks:
        if block["title"] not in told:
            told[block["title"]] = block_path
            yield from _tables(block, definitions, block_path, told)


def _variants(field: Schema) -> list[Schema]:
    return [variant for variant in field.get("anyOf", [field]) if variant.get("type") != "null"]


def _block(field: Schema, definitions: dict[str, Schema]) -> tuple[Schema | None, bool]:
    """The block that a field holds, if it holds one, and whether it holds a list of them."""
    for variant in _variants(field):
        is_list = variant.get("type") == "array"
        reference = (variant["items"] if is_list else variant).get("$ref")
        name = (reference or "").rpartition("/")[2]
        if "properties" in definitions.get(name, {}):
            return definitions[name], is_list
    return None, False


def _type(field: Schema, definitions: dict[str, Schema]) -> str:
    if _block(field, definitions)[0] is not None:
        return "list of mappings" if _block(field, definitions)[1] else "mapping"
    return " or ".join(_scalar_type(variant) for variant in _variants(field))


def _scalar_type(schema: Schema) -> str:
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    if schema.get("x-kubernetes-int-or-string"):
        return "number or string"
    kind = str(schema.get("type", "any"))
    if kind == "array":
        return f"list of {_scalar_type(schema['items'])}"
    if kind == "object":
        return "mapping"
    limits = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    told = {key: sign for key, sign in limits.items() if schema.get(key, MAX_INTEGER) != MAX_INTEGER}
    bounds = [f"{sign} {_number(schema[key])}" for key, sign in told.items()]
    return f"{kind} {', '.join(bounds)}".strip()


def _default(field: Schema) -> str:
    default = field.get("default")
    return "" if default in (None, {}, []) else f"`{_escape(json.dumps(default))}`"


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else str(value)


def _summary(schema: Schema) -> str:
    """The first line of a block's docstring."""
    return str(schema.get("description", "")).partition("\n")[0]


def _rules() -> str:
    lines = [f"- {rule.text}" for rule in RULES]
    return "## Rules between fields\n\n" + "\n".join(lines) + "\n"


def _settled() -> str:
    rows = [f"| `{name}` | {field} |" for name, field in SETTLED_BY_FIELD.items()]
    head = "## VeRL settings that `spec.verl` may not hold\n\n| setting | set by |\n|---|---|\n"
    return head + "\n".join(rows) + "\n"


def _escape(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")

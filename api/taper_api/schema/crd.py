"""The custom resource definitions, made from the models so that `taper run -f` and an API server
refuse the same jobs. `make docs` writes them to `manifests/crds`."""

from __future__ import annotations

from typing import Any

import yaml
from pydantic import BaseModel

from taper_api.job.spec import RLHFJobSpec
from taper_api.profile.tpprofile import PROFILE_RULES, TPProfile, TPProfileSpec, TPProfileStatus
from taper_api.rlhfjob import RLHFJob
from taper_api.rules.rlhfjob_rules import cel_rules
from taper_api.rules.rule import escaped
from taper_api.rules.verl_rules import SETTLED_BY_FIELD, SETTLED_GROUPS
from taper_api.schema.structural_schema import Schema, add_rules, structural_schema
from taper_api.status.rlhfjob_status import RLHFJobStatus

GROUP = "taper.dev"
VERSION = "v1alpha1"
_HEAD = "# Made by `make docs` from taper_api; do not edit.\n"


def crd_files() -> dict[str, str]:
    """Name and content of each file of `manifests/crds`."""
    return {
        f"{GROUP}_{crd['spec']['names']['plural']}.yaml": _HEAD
        + yaml.safe_dump(crd, sort_keys=False, width=110, allow_unicode=True)
        for crd in (rlhfjob_crd(), tpprofile_crd())
    }


def rlhfjob_crd() -> dict[str, Any]:
    """The CustomResourceDefinition of RLHFJob."""
    schema = _resource(RLHFJob, RLHFJobSpec, RLHFJobStatus)
    schema["properties"]["spec"]["properties"]["verl"] |= _settled_settings()
    add_rules(schema, cel_rules())
    columns = [
        _column("Phase", "string", ".status.phase"),
        _column("Step", "integer", ".status.progress.step"),
        _column("Steps", "integer", ".spec.training.steps"),
        _column("ETA", "date", ".status.progress.eta", priority=1),
        _column("Attempt", "integer", ".status.attempt"),
        _column("Nodes", "integer", ".spec.training.nodes", priority=1),
        _column("Ranks", "integer", ".spec.training.ranks", priority=1),
        _column("Footprint", "integer", ".spec.rollout.footprint", priority=1),
        _column("Switches", "integer", ".status.rollout.switches", priority=1),
        _column("Model", "string", ".spec.model.path", priority=1),
        _column("Queue", "string", ".spec.kueue.queueName", priority=1),
        _column("Age", "date", ".metadata.creationTimestamp"),
    ]
    return _definition("RLHFJob", "rlhfjobs", ["rlhf"], schema, columns)


def tpprofile_crd() -> dict[str, Any]:
    """The CustomResourceDefinition of TPProfile."""
    schema = _resource(TPProfile, TPProfileSpec, TPProfileStatus)
    add_rules(schema, [cel for rule in PROFILE_RULES for cel in rule.cel])
    columns = [
        _column("Model", "string", ".spec.key.model"),
        _column("Device", "string", ".spec.key.device"),
        _column("Footprint", "integer", ".spec.footprint"),
        _column("Estimated", "boolean", ".spec.isEstimated"),
        _column("Error", "number", ".spec.heldOutError", priority=1),
        _column("Made", "date", ".spec.madeAt"),
        _column("Age", "date", ".metadata.creationTimestamp"),
    ]
    return _definition("TPProfile", "tpprofiles", ["tpp"], schema, columns)


def _resource(model: type[BaseModel], spec: type[BaseModel], status: type[BaseModel]) -> Schema:
    """The schema of a whole resource. Of `metadata` the server itself says what it may hold."""
    described = {name: field.description or "" for name, field in model.model_fields.items()}
    return {
        "description": (model.__doc__ or "").partition("\n")[0],
        "type": "object",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"description": described["api_version"], "type": "string", "maxLength": 64},
            "kind": {"description": described["kind"], "type": "string", "maxLength": 64},
            "metadata": {"type": "object"},
            "spec": {**structural_schema(spec, "spec"), "description": described["spec"]},
            "status": structural_schema(status, "status"),
        },
    }


def _settled_settings() -> Schema:
    """Names that `spec.verl` may not hold. A rule can only speak of names that the schema knows."""
    fields: Schema = {}
    for name in sorted(SETTLED_GROUPS):
        fields[name] = {
            "description": "Not to be used.",
            "type": "object",
            "x-kubernetes-preserve-unknown-fields": True,
        }
    for name, field in SETTLED_BY_FIELD.items():
        fields[name] = {
            "description": f"Not to be used: it is set by {field}.",
            "x-kubernetes-int-or-string": True,
            "maxLength": 1024,
        }
    assert all(escaped(name) for name in fields)
    return {"properties": fields}


def _definition(
    kind: str, plural: str, short_names: list[str], schema: Schema, columns: list[dict[str, Any]]
) -> dict[str, Any]:
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"{plural}.{GROUP}",
            "labels": {"app.kubernetes.io/name": "taper", "app.kubernetes.io/part-of": "taper"},
        },
        "spec": {
            "group": GROUP,
            "names": {
                "kind": kind,
                "listKind": f"{kind}List",
                "plural": plural,
                "singular": kind.lower(),
                "shortNames": short_names,
                "categories": ["all", "taper"],
            },
            "scope": "Namespaced",
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": columns,
                    "schema": {"openAPIV3Schema": schema},
                }
            ],
        },
    }


def _column(name: str, kind: str, path: str, *, priority: int = 0) -> dict[str, Any]:
    column: dict[str, Any] = {"name": name, "type": kind, "jsonPath": path}
    return {**column, "priority": priority} if priority else column

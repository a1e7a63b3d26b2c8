"""What Kubernetes' own objects may hold, by the models of the official client: no API server is needed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from kubernetes.client import models

_PLAIN = {"str": str, "bytes": str, "int": int, "bool": bool, "float": (int, float)}
_API_VERSIONS = {
    "v1": "V1",
    "apps/v1": "V1",
    "networking.k8s.io/v1": "V1",
    "policy/v1": "V1",
    "rbac.authorization.k8s.io/v1": "V1",
}


def problems_of(obj: dict[str, Any]) -> Iterator[str]:
    """Fields that its kind does not have, and values of another type; one line for each."""
    model = getattr(models, _API_VERSIONS[obj["apiVersion"]] + obj["kind"])
    yield from _problems(obj, model.__name__, obj["kind"])


def _problems(value: Any, kind: str, path: str) -> Iterator[str]:
    if (of_list := re.fullmatch(r"[Ll]ist\[(.+)\]", kind)) is not None:
        if not isinstance(value, list):
            yield f"{path} is no list"
            return
        for index, item in enumerate(value):
            yield from _problems(item, of_list[1], f"{path}[{index}]")
    elif (of_map := re.fullmatch(r"[Dd]ict[\[(][^,]+, (.+)[\])]", kind)) is not None:
        if not isinstance(value, dict):
            yield f"{path} is no mapping"
            return
        for name, item in value.items():
            yield from _problems(item, of_map[1], f"{path}.{name}")
    elif kind in _PLAIN:
        if not isinstance(value, _PLAIN[kind]) or (isinstance(value, bool) and kind != "bool"):
            yield f"{path} is no {kind}: {value!r}"
    elif kind not in ("object", "datetime"):
        yield from _fields(value, getattr(models, kind), path)


def _fields(value: Any, model: Any, path: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{path} is no mapping"
        return
    kinds = {name: model.openapi_types[field] for field, name in model.attribute_map.items()}
    for name, item in value.items():
        if name not in kinds:
            yield f"{path}.{name} is no field of {model.__name__}"
        else:
            yield from _problems(item, kinds[name], f"{path}.{name}")

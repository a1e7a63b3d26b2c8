"""Kubernetes quantities: CPUs and bytes, as text."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, Field, WithJsonSchema

CPU_PATTERN: Final = r"^[1-9][0-9]{0,4}(\.[0-9]{1,3})?$|^[1-9][0-9]{0,7}m$"
MAX_CPUS: Final = 100_000  # excluded; as in the pattern
_BYTES_PATTERN: Final = r"^[1-9][0-9]{0,8}(Mi|Gi|Ti|M|G|T)$"
_FACTORS: Final = {"Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "M": 10**6, "G": 10**9, "T": 10**12}


def _as_text(content: Any) -> Any:
    """`cpu: 16` is how everyone writes it, and Kubernetes takes it for a text too."""
    return str(content) if type(content) is int else content


Cpu = Annotated[
    str,
    Field(max_length=12, pattern=CPU_PATTERN),
    BeforeValidator(_as_text),
    WithJsonSchema({"x-kubernetes-int-or-string": True, "pattern": CPU_PATTERN, "maxLength": 12}),
]
Bytes = Annotated[str, Field(max_length=12, pattern=_BYTES_PATTERN)]


def cpus_of(quantity: str) -> Decimal:
    """The CPUs of a `Cpu`: 1.5 for `1500m`."""
    return Decimal(quantity[:-1]) / 1000 if quantity.endswith("m") else Decimal(quantity)


def bytes_of(quantity: str) -> int:
    """The bytes of a `Bytes`: 2**30 for `1Gi`."""
    number = quantity.rstrip("KMGTi")
    return int(number) * _FACTORS[quantity[len(number) :]]

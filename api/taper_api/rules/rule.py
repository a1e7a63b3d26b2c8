"""A rule between fields: the parser evaluates its Python, an API server its CEL.

CEL (Common Expression Language) is the language of `x-kubernetes-validations` in a CRD. A CEL rule may
assume that defaults are set: the server sets them first. Optional fields without a default need `has()`. The
server estimates what a rule costs from the lengths in the schema: text made by `string()` and unbounded
lists have no bound, and would make it refuse the whole definition.

CEL has static messages and cannot name an index, so a rule in Python gives more detail: the numbers, and the
path with its index. Where one Python check needs several CEL rules, they stand together.

Invariants (asserted by `tests/api/test_crd.py` and, on an API server, by
`tests/cluster/installation/test_parity.py`): a job that breaks the CEL breaks the Python, and the other way
around; each CEL rule has a job that breaks it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from taper_api.base.job_error import Problem

Checked = TypeVar("Checked")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CelRule:
    """An entry of `x-kubernetes-validations`.

    at: path of the block or field that `rule` calls `self`; `[]` stands for the items of a list,
        the empty path for the whole resource
    message: names the path, says what is wrong and, after a colon, what would be right
    field_path: the field that the server blames, below `at`; only names, no indices
    """

    at: str
    rule: str
    message: str
    field_path: str = ""

    def as_schema(self) -> dict[str, str]:
        """The entry in its CRD."""
        entry = {"rule": self.rule, "message": self.message}
        return {**entry, "fieldPath": self.field_path} if self.field_path else entry


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Rule(Generic[Checked]):
    """A rule in both languages.

    text: the rule in a sentence, for the configuration reference
    check: yields what is wrong with a block whose fields are each valid by themselves; pure
    cel: the same for an API server
    """

    text: str
    check: Callable[[Checked], Iterator[Problem]]
    cel: tuple[CelRule, ...]


def escaped(name: str) -> str:
    """A field's name as CEL writes it. Raises `ValueError` for a character that needs another escape."""
    if "__" in name or not all(character.isalnum() or character in "_./-" for character in name):
        raise ValueError(f"{name!r}: has characters that need an escape of their own")
    return name.replace(".", "__dot__").replace("-", "__dash__").replace("/", "__slash__")

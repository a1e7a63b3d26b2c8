"""A rule between fields: the parser evaluates its Python, an API server its CEL.

CEL (Common Expression Language) is the language of `x-kubernetes-validations` in a CRD. A CEL rule may
assume that defaults are set: the server sets them first. Optional fields without a default need `has()`. The
server estimates what a rule costs from the lengths in the schema: text made by `string()` and unbounded
lists have no bound, and would make it refuse the whole definition.

CEL has static messages and cannot name an index, so a rule in Python gives more detail: the numbers, and the
path with its index. A `Constraint` has an expression in each language, and words for both. What needs more is
a `Rule` with a check of its own beside its CEL rules.

Invariants (asserted by `tests/api/test_crd.py` and, on an API server, by
`tests/cluster/installation/test_parity.py`): a job that breaks the CEL breaks the Python, and the other way
around; each CEL rule has a job that breaks it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

from pydantic.alias_generators import to_snake

from taper_api.base.block import Block
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


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Constraint:
    """A condition on each block at a path.

    at, field: as `at` and `field_path` of a `CelRule`; without a field the block itself is blamed
    holds, cel: whether it holds for a block
    message, remedy: what is wrong, and what would be right
    detail, hint: the same of one block, with its numbers, for the parser
    """

    at: str
    field: str = ""
    holds: Callable[[Any], bool]
    cel: str
    message: str
    remedy: str
    detail: Callable[[Any], str] | None = None
    hint: Callable[[Any], str] | None = None

    def problems(self, spec: Block) -> Iterator[Problem]:
        """What the parser says of each block of a resource's `spec` for which it does not hold."""
        for path, block in _blocks(spec, self.at):
            if not self.holds(block):
                message = self.message if self.detail is None else self.detail(block)
                remedy = self.remedy if self.hint is None else self.hint(block)
                yield Problem(path=_below(path, self.field), message=message, remedy=remedy)

    def in_cel(self) -> CelRule:
        """What an API server evaluates."""
        message = f"{_below(self.at, self.field)} {self.message}: {self.remedy}"
        return CelRule(at=self.at, rule=self.cel, message=message, field_path=_below("", self.field))


def rule_of(text: str, *constraints: Constraint) -> Rule[Any]:
    """The rule that all of `constraints` hold."""
    return Rule(
        text=text,
        check=lambda spec: (problem for one in constraints for problem in one.problems(spec)),
        cel=tuple(one.in_cel() for one in constraints),
    )


def _below(path: str, field: str) -> str:
    return f"{path}.{field}" if field else path


def _blocks(spec: Block, at: str) -> list[tuple[str, Any]]:
    """The blocks at a path, those left out excepted; each with its own path, in which lists have indices."""
    found: list[tuple[str, Any]] = [("spec", spec)]
    for part in at.split(".")[1:]:
        name = part.removesuffix("[]")
        inner = [(f"{path}.{name}", getattr(block, to_snake(name))) for path, block in found]
        if part.endswith("[]"):
            inner = [(f"{path}[{index}]", one) for path, many in inner for index, one in enumerate(many)]
        found = [(path, block) for path, block in inner if block is not None]
    return found


def escaped(name: str) -> str:
    """A field's name as CEL writes it. Raises `ValueError` for a character that needs another escape."""
    if "__" in name or not all(character.isalnum() or character in "_./-" for character in name):
        raise ValueError(f"{name!r}: has characters that need an escape of their own")
    return name.replace(".", "__dot__").replace("-", "__dash__").replace("/", "__slash__")

"""A validation rule that an API server evaluates, beside the check of the parser that says the same.

CEL (Common Expression Language) is what `x-kubernetes-validations` of a CRD are written in.
"""

from __future__ import annotations

import dataclasses

# The twin of a rule that says of one field what the field's own type says in Python.
FIELD = "field"
# The twin of a rule on what may change: `immutability.refused_changes`.
IMMUTABILITY = "immutability"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CelRule:
    """One rule.

    at: path of the block or field that `rule` calls `self`; `[]` stands for the items of a list,
        the empty path for the whole resource
    message: names the path, says what is wrong and, after a colon, what would be right
    twin: the check that refuses the same in the parser: a key of `contradictions.RULES`, or one
        of the names above
    field_path: the field that the server blames, below `at`; only names, no indices
    """

    at: str
    rule: str
    message: str
    twin: str
    field_path: str = ""

    def as_schema(self) -> dict[str, str]:
        """Its entry in `x-kubernetes-validations`."""
        entry = {"rule": self.rule, "message": self.message}
        return {**entry, "fieldPath": self.field_path} if self.field_path else entry


def escaped(name: str) -> str:
    """A field's name as CEL has it: letters, digits and single underscores stay."""
    if "__" in name or not all(character.isalnum() or character in "_./-" for character in name):
        raise ValueError(f"{name!r}: has characters that need an escape of their own")
    return name.replace(".", "__dot__").replace("-", "__dash__").replace("/", "__slash__")

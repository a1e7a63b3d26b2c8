"""What an API server checks of a TPProfile beyond the types of its fields."""

from __future__ import annotations

from taper_api.rules.cel_rule import CelRule

_TWIN = "profile"
_FROM, _TO = "int(pair.substring(0, 1))", "int(pair.substring(3, 4))"


def tpprofile_rules() -> list[CelRule]:
    """All rules of the resource; each has its twin in `tpprofile`."""
    return [
        CelRule(
            at="spec",
            rule="self.degrees[size(self.degrees) - 1] == self.footprint && [1, 2, 3].all(i, "
            "i >= size(self.degrees) || self.degrees[i - 1] < self.degrees[i])",
            message="spec.degrees must ascend and end with the footprint: list each degree once",
            twin=_TWIN,
            field_path=".degrees",
        ),
        CelRule(
            at="spec",
            rule="size(self.prefill) == size(self.degrees) && self.prefill.all(d, int(d) in self.degrees)",
            message="spec.prefill must have the degrees of spec.degrees: give it for each of them",
            twin=_TWIN,
            field_path=".prefill",
        ),
        CelRule(
            at="spec",
            # `1->2`: the pattern of the key sees to it that the digits are there.
            rule=f"self.switch.all(pair, {_FROM} != {_TO} && [{_FROM}, {_TO}].all(d, d in self.degrees))",
            message="spec.switch must be of pairs of the degrees: name different ones of spec.degrees",
            twin=_TWIN,
            field_path=".switch",
        ),
        CelRule(
            at="spec",
            rule="self.cells.all(cell, cell.degree in self.degrees)",
            message="spec.cells must be of the degrees of spec.degrees: remove the others",
            twin=_TWIN,
            field_path=".cells",
        ),
        CelRule(
            at="spec",
            rule="self.isEstimated || has(self.heldOutError)",
            message="spec.heldOutError is missing in a profile that is not estimated: measure it",
            twin=_TWIN,
            field_path=".heldOutError",
        ),
        CelRule(
            at="spec",
            rule="self.isEstimated || has(self.heldOutCellError)",
            message="spec.heldOutCellError is missing in a profile that is not estimated: measure it",
            twin=_TWIN,
            field_path=".heldOutCellError",
        ),
    ]

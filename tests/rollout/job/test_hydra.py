"""Hydra reads a written override back as the same value."""

from __future__ import annotations

from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from taper_rollout.job.hydra import override

TEXT = st.text(
    alphabet=st.characters(blacklist_categories=("Cs", "Cc")) | st.sampled_from("'\"\\,={}[]:$ #"),
    max_size=12,
).filter(lambda text: not text.endswith("\\") and "${" not in text)
KEYS = st.text(alphabet="abcdefgh_", min_size=1, max_size=6)
SCALARS = st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats(allow_nan=False) | TEXT
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=6,
)


@given(VALUES)
def test_a_value_survives_hydra(value: Any) -> None:
    parsed = OverridesParser.create().parse_override(override("++some.name", value))
    assert parsed.key_or_group == "some.name"
    assert parsed.value() == value


@pytest.mark.parametrize("value", [{"a b": 1}, {1: 2}, object(), "line\nbreak", "back\\"])
def test_values_that_the_grammar_cannot_express_are_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="Hydra override"):
        override("name", value)

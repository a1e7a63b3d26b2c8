"""The decoder: as `json.loads` down to its bound, and no depth stops it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taper_api.base.nesting import is_deeper
from taper_api.job.spec import MAX_SETTING_LEVELS
from taper_operator.kube.json_decoder import MAX_LEVELS, _cut, decoded

from ..deep_json import nested

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


def within(content: Any, levels: int) -> Any:
    """The content by the decoder's rule, in recursion."""
    if not isinstance(content, dict | list):
        return content
    if levels == 1:
        return type(content)()
    if isinstance(content, list):
        return [within(each, levels - 1) for each in content]
    return {name: within(each, levels - 1) for name, each in content.items()}


@given(JSON, st.integers(0, 3 * MAX_LEVELS), st.booleans(), JSON)
def test_decoding_keeps_everything_down_to_the_bound(
    inner: Any, levels: int, indented: bool, beside: Any
) -> None:
    content = inner
    for level in range(levels):
        content = [content, beside] if level % 2 else {'"}]\\': content, "z": beside}
    text = json.dumps(content, indent=1 if indented else None, ensure_ascii=indented).encode()
    is_cut = is_deeper(content, MAX_LEVELS)
    assert decoded(text) == (within(content, MAX_LEVELS) if is_cut else content)


@pytest.mark.parametrize(
    ("levels", "left"), [(MAX_LEVELS, MAX_LEVELS), (MAX_LEVELS + 1, MAX_LEVELS), (100_000, MAX_LEVELS)]
)
def test_the_bound(levels: int, left: int) -> None:
    for text in (nested(levels), b"[" * levels + b"]" * levels):
        content = decoded(text)
        assert is_deeper(content, left - 1)
        assert not is_deeper(content, left)
    # Above the bound nothing is lost, below it nothing is left.
    assert decoded(b'{"a": ' + nested(levels) + b', "b": [1, "]"]}')["b"] == [1, "]"]


def test_the_decoders_bound_is_deeper_than_the_parsers() -> None:
    """So that it is refused by the parser: `items[0].spec.reward.settings` of a list lies deepest."""
    assert is_deeper(within(decoded(nested(MAX_LEVELS + 1)), MAX_LEVELS), 6 + MAX_SETTING_LEVELS)


@pytest.mark.parametrize(
    "text",
    [b"", b"[", b"]", b'{"a": }', nested(5000)[:-1], nested(5000) + b"}", nested(5000) + b'"', b"\xff[]"],
)
def test_text_that_is_not_json_is_a_value_error(text: bytes) -> None:
    with pytest.raises(ValueError):
        decoded(text)


@given(st.binary() | st.text(alphabet='{}[]"\\a', max_size=MAX_LEVELS - 1).map(str.encode))
def test_text_within_the_bound_is_not_cut_whether_or_not_it_is_json(text: bytes) -> None:
    assert _cut(text) == text

"""Sizes of arena and staging follow from the model's config.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from taper_rollout.profiling.kv_budget import (
    MAX_DEFAULT_KV_TOKENS,
    ModelShape,
    default_kv_tokens,
    read_model_shape,
)

CONFIG: dict[str, Any] = {
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 32,
    "hidden_size": 128,
    "num_hidden_layers": 6,
    "dtype": "bfloat16",
}


def shape_of(directory: Path, wanted: str = "auto", **changes: Any) -> ModelShape:
    config = {name: value for name, value in (CONFIG | changes).items() if value is not None}
    (directory / "config.json").write_text(json.dumps(config))
    return read_model_shape(str(directory), wanted)


def test_a_shape_is_read(tmp_path: Path) -> None:
    assert shape_of(tmp_path) == ModelShape(num_kv_heads=4, head_dim=32, num_layers=6, element_bytes=2)


def test_missing_entries_follow_from_the_rest(tmp_path: Path) -> None:
    shape = shape_of(tmp_path, num_key_value_heads=None, head_dim=None)
    assert (shape.num_kv_heads, shape.head_dim) == (8, 16)


@pytest.mark.parametrize(
    ("dtype", "changes", "element_bytes"),
    [
        ("float32", {}, 4),
        ("auto", {"dtype": None, "torch_dtype": "float16"}, 2),
        ("auto", {"dtype": "torch.float32"}, 4),
        ("auto", {"dtype": None}, 4),
    ],
)
def test_the_element_size_is_that_of_the_dtype(
    tmp_path: Path, dtype: str, changes: dict[str, Any], element_bytes: int
) -> None:
    assert shape_of(tmp_path, dtype, **changes).element_bytes == element_bytes


def test_a_config_without_a_field_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"config\.json: no field 'num_hidden_layers'"):
        shape_of(tmp_path, num_hidden_layers=None)


@pytest.mark.parametrize("base_degree", [1, 2, 4])
def test_staging_holds_a_layer_of_the_whole_arena_twice(base_degree: int) -> None:
    shape = ModelShape(num_kv_heads=4, head_dim=32, num_layers=6, element_bytes=4)
    held = 1001 * (4 // base_degree) * 32 * 4 * 2
    assert 2 * held <= shape.staging_bytes(1000, base_degree) < 2 * held + 8192
    assert shape.staging_bytes(1000, base_degree) % 8192 == 0


def test_the_default_arena_is_bounded() -> None:
    assert default_kv_tokens(16, 1000) == 16_000
    assert default_kv_tokens(10_000, 10_000) == MAX_DEFAULT_KV_TOKENS

"""Equal shapes on equal devices have one key, whatever their weights are."""

from __future__ import annotations

from typing import Any

import pytest

from taper_rollout.profiling.key import PACKAGES, profile_key

CONFIG: dict[str, Any] = {
    "model_type": "qwen3",
    "hidden_size": 256,
    "num_hidden_layers": 4,
    "dtype": "bfloat16",
    "transformers_version": "5.0",
    "_name_or_path": "a",
}


def name(**changes: Any) -> str:
    return profile_key(CONFIG | changes, dtype="float32", device="cpu", footprint=2).model


def test_the_key_of_a_model_is_its_shape() -> None:
    assert name().startswith("qwen3-")
    assert name(transformers_version="6.0", _name_or_path="b", dtype="float32", eos_token_id=7) == name()
    assert name(**dict(reversed(CONFIG.items()))) == name()
    assert len({name(), name(hidden_size=512), name(num_hidden_layers=5), name(rope_theta=1.0)}) == 4


@pytest.mark.parametrize(
    ("requested", "known"), [("auto", "bfloat16"), ("float32", "float32"), ("bfloat16", "bfloat16")]
)
def test_the_dtype_of_the_key_is_the_one_used(requested: str, known: str) -> None:
    assert profile_key(CONFIG, dtype=requested, device="cpu", footprint=2).dtype == known


def test_the_key_of_a_processor_includes_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(4)))
    monkeypatch.setattr("taper_rollout.profiling.key.processor_name", lambda: "Fast CPU")
    key = profile_key(CONFIG, dtype="auto", device="cpu", footprint=2)
    assert key.device == "Fast CPU, 2 of 4 cores"
    assert profile_key(CONFIG, dtype="auto", device="cpu", footprint=8).device == "Fast CPU, 4 of 4 cores"
    assert sorted(key.versions) == list(PACKAGES)
    assert all(key.versions.values())

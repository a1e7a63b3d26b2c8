"""A replica's settings from VeRL's configuration, with defaults."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from taper_rollout.verl.settings import engine_sampling, replica_settings

ROLLOUT: dict[str, Any] = {
    "custom": None,
    "data_parallel_size": 1,
    "pipeline_model_parallel_size": 1,
    "tensor_model_parallel_size": 4,
    "dtype": "auto",
    "max_model_len": None,
    "prompt_length": 64,
    "response_length": 16,
    "n": 4,
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": -1,
    "seed": 5,
}


def settings_of(**rollout: Any) -> Any:
    return replica_settings(
        SimpleNamespace(**ROLLOUT | rollout),
        model_path="/models/tiny",
        model_dtype="bfloat16",
        trust_remote_code=False,
        replica=1,
        device="cpu",
        node_address="10.1.2.3",
    )


def test_defaults() -> None:
    settings = settings_of()
    rollout = settings.rollout
    assert (rollout.footprint, rollout.degrees, rollout.mode) == (4, (1, 2, 4), "enforce")
    assert (rollout.policy.name, rollout.switch.kv) == ("predictor", "auto")
    assert (settings.dtype, settings.context_tokens, settings.random_seed) == ("bfloat16", 80, 5)


def test_settings_override_the_defaults() -> None:
    settings = settings_of(
        custom={"degrees": [1, 4], "mode": "off", "port": 9000}, dtype="float32", max_model_len=100
    )
    assert (settings.rollout.degrees, settings.rollout.mode) == ((1, 4), "off")
    assert settings.port == 9001  # the second replica's
    assert (settings.dtype, settings.context_tokens) == ("float32", 100)


@pytest.mark.parametrize(
    ("host", "listens_on"), [(None, "127.0.0.2"), ("node", "10.1.2.3"), ("0.0.0.0", "0.0.0.0")]
)
def test_the_status_server_listens_on_loopback_by_default(host: str | None, listens_on: str) -> None:
    """Each replica on its own address: VeRL identifies servers by it, and nodes may have the same ports."""
    assert settings_of(custom={"host": host}).host == listens_on


@pytest.mark.parametrize(
    ("asked", "prompt_tokens", "limit"),
    [({}, 10, 16), ({"max_tokens": 4}, 10, 4), ({"max_new_tokens": 99}, 70, 10), ({"max_tokens": 0}, 10, 1)],
)
def test_the_limit_is_the_responses_and_the_contexts(
    asked: dict[str, Any], prompt_tokens: int, limit: int
) -> None:
    verl = {"temperature": 0.5, "logprobs": True} | asked
    engine, logprobs = engine_sampling(
        verl, prompt_tokens=prompt_tokens, response_length=16, context_tokens=80
    )
    assert engine == {"temperature": 0.5, "max_new_tokens": limit}
    assert logprobs


def test_a_prompt_that_fills_the_context_is_refused() -> None:
    with pytest.raises(ValueError, match="no room in a context of 80"):
        engine_sampling({}, prompt_tokens=80, response_length=16, context_tokens=80)

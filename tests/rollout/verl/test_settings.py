"""A replica's settings from VeRL's configuration, with defaults."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from taper_rollout.verl.settings import default_degrees, engine_sampling, replica_settings

ROLLOUT: dict[str, Any] = {
    "custom": None,
    "data_parallel_size": 1,
    "pipeline_model_parallel_size": 1,
    "tensor_model_parallel_size": 4,
    "dtype": "auto",
    "max_model_len": None,
    "prompt_length": 64,
    "response_length": 16,
    "seed": 5,
}


def settings_of(**rollout: Any) -> Any:
    fields = replica_settings(
        SimpleNamespace(**ROLLOUT | rollout),
        model_path="/models/tiny",
        model_dtype="bfloat16",
        trust_remote_code=False,
        replica=1,
        device="cpu",
        node_address="10.1.2.3",
    )
    return SimpleNamespace(**fields)


def test_defaults() -> None:
    settings = settings_of()
    assert (settings.footprint, settings.degrees, settings.mode, settings.kv) == (
        4,
        (1, 2, 4),
        "enforce",
        "auto",
    )
    assert settings.policy == {"name": "predictor"}
    assert (settings.dtype, settings.context_tokens, settings.random_seed) == ("bfloat16", 80, 5)


def test_settings_override_the_defaults() -> None:
    settings = settings_of(
        custom={"degrees": [1, 4], "mode": "off", "seed": 3, "port": 9000}, dtype="float32", max_model_len=100
    )
    assert (settings.degrees, settings.mode, settings.seed) == ((1, 4), "off", 3)
    assert settings.port == 9001  # the second replica's
    assert (settings.dtype, settings.context_tokens) == ("float32", 100)


@pytest.mark.parametrize(
    ("host", "listens_on"), [(None, "127.0.0.2"), ("node", "10.1.2.3"), ("0.0.0.0", "0.0.0.0")]
)
def test_the_status_server_listens_on_loopback_by_default(host: str | None, listens_on: str) -> None:
    """Each replica has its own address, as VeRL identifies servers by it and ports of nodes may be equal."""
    assert settings_of(custom={"host": host}).host == listens_on


def test_an_unknown_setting_is_named() -> None:
    with pytest.raises(ValueError, match=r"custom\.degree: unknown setting; use one of degrees, host, kv"):
        settings_of(custom={"degree": [1]})


def test_an_unknown_kv_mode_is_named() -> None:
    assert settings_of(custom={"kv": "recompute"}).kv == "recompute"
    with pytest.raises(ValueError, match=r"custom\.kv: 'copy' is not one of auto, migrate, recompute"):
        settings_of(custom={"kv": "copy"})


@pytest.mark.parametrize(("footprint", "degrees"), [(1, (1,)), (2, (1, 2)), (8, (1, 2, 4, 8))])
def test_default_degrees(footprint: int, degrees: tuple[int, ...]) -> None:
    assert default_degrees(footprint) == degrees


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

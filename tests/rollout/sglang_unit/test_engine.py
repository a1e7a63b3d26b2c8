"""The facade's end of an engine, as far as it can be seen without one."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest

from taper_rollout.sglang.engine import ElasticEngine, EngineDied
from taper_rollout.sglang.engine_settings import EngineSettings, environment

SETTINGS = EngineSettings(model_path="none", footprint=2, degrees=(1, 2))


def test_a_switch_that_nobody_answers_loses_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some ranks may have the new layout and some the old one: requests must not go on in either."""

    class FakeRouter:
        def hold(self) -> None: ...

        def release(self) -> None: ...

    async def no_answer(*_: Any, **__: Any) -> Any:
        raise TimeoutError("command switch: no answer from ranks [1] in 60 s")

    async def scenario() -> None:
        engine = ElasticEngine(SETTINGS)
        engine._router = FakeRouter()  # type: ignore[assignment]
        monkeypatch.setattr(engine, "_command", no_answer)
        with pytest.raises(EngineDied, match=r"switch 3: .* no answer from ranks \[1\]"):
            await engine.switch(2, kv="migrate", epoch=3, deadline_seconds=10)
        assert engine.fault is not None
        with pytest.raises(EngineDied):
            await engine.generate([1], {})

    asyncio.run(scenario())


def test_an_engine_that_was_never_started_closes() -> None:
    asyncio.run(ElasticEngine(SETTINGS).close())


def test_the_environment_of_the_ranks_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("SGLANG_CPU_OMP_THREADS_BIND", raising=False)
    before = dict(os.environ)
    with environment(SETTINGS):
        assert os.environ["OMP_NUM_THREADS"] == "1"
        assert len(os.environ["SGLANG_CPU_OMP_THREADS_BIND"].split("|")) == 2
    assert dict(os.environ) == before

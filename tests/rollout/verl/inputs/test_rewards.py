"""Built-in rewards, the user's own, and the wrapper that reports the one that fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from taper_rollout.verl.inputs import rewards
from taper_rollout.verl.inputs.rewards import RewardFailed, reward_function, score


def call(function: str, answer: str = "4", wanted: str = "4", run: str | None = None, **settings: Any) -> Any:
    return score("job", answer, wanted, {}, function=function, settings=settings, run=run)


@pytest.mark.parametrize(
    ("function", "answer", "wanted", "settings", "expected"),
    [
        ("exact-match", " 4\n", "4", {}, 1.0),
        ("exact-match", "Yes", "yes", {}, 0.0),
        ("exact-match", "Yes", "yes", {"ignore_case": True}, 1.0),
        ("number", "so it is 1,234.50", "1234.5", {}, 1.0),
        ("number", "no idea", "3", {}, 0.0),
    ],
)
def test_built_in(function: str, answer: str, wanted: str, settings: dict[str, Any], expected: float) -> None:
    assert call(function, answer, wanted, **settings) == expected


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"no built-in reward 'exact'; use exact-match"):
        reward_function("exact")


def own(tmp_path: Path, body: str) -> str:
    file = tmp_path / "mine.py"
    file.write_text(body)
    return f"{file}:reward"


def test_the_users_function_with_settings(tmp_path: Path) -> None:
    function = own(
        tmp_path, "def reward(solution_str, scale, **_): return {'score': scale * len(solution_str)}"
    )
    assert call(function, "abc", scale=2) == {"score": 6}


def test_a_coroutine_function(tmp_path: Path) -> None:
    function = own(tmp_path, "async def reward(**_): return 0.25")
    assert call(function) == 0.25


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("def reward(**_): raise KeyError('nothing')", "mine.py:reward failed: KeyError: 'nothing'"),
        ("def reward(**_): return None", "failed: TypeError: it returned None; return a number"),
        ("def reward(**_): return {'points': 1}", "return a number, or a mapping"),
        ("def reward(**_): return float('nan')", "return a finite number"),
    ],
)
def test_a_failure_is_named_and_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, message: str
) -> None:
    reported: list[tuple[str, str]] = []
    monkeypatch.setattr(rewards, "_post_failure", lambda run, text: reported.append((run, text)))
    with pytest.raises(RewardFailed, match=message):
        call(own(tmp_path, body), run="taper_run_1")
    assert [run for run, _ in reported] == ["taper_run_1"]
    assert "mine.py:reward" in reported[0][1]


def test_a_file_that_cannot_be_loaded(tmp_path: Path) -> None:
    with pytest.raises(RewardFailed, match=r"mine\.py cannot be loaded: ZeroDivisionError"):
        reward_function(own(tmp_path, "1 / 0"))


def test_a_missing_function(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no function 'reward'"):
        reward_function(own(tmp_path, "x = 1"))

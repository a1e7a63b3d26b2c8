"""`taper simulate`: an answer without a cluster, and clear words for what it cannot use."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from taper_policy.profile.estimated import a40_14b
from taper_policy.profile.file import write_profile
from taper_rollout import cli
from taper_rollout.report import simulation

SMALL = ("--stages", "3", "--prompts", "3", "--samples", "2", "--max-tokens", "512")


def taper(*arguments: object) -> int:
    return cli.main(["simulate", *map(str, arguments)])


def stage_file(directory: Path, number: int, requests: list[dict[str, Any]]) -> Path:
    directory.mkdir(exist_ok=True, parents=True)
    file = directory / f"stage-{number:05}-0.json"
    file.write_text(json.dumps({"step": number, "requests": requests}))
    return file


def request(tokens: object, prompt: str = "p") -> dict[str, Any]:
    return {"prompt": prompt, "prompt_tokens": 5, "response_tokens": tokens, "request_id": "r"}


def test_synthetic_stages_end_with_a_table_an_answer_and_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "out.json"
    assert taper(*SMALL, "--regime", "bimodal", "--json", file) == 0
    out = capsys.readouterr().out
    for expected in ("predictor", "oracle", "static TP8", "ESTIMATED", "best static layout", "widen-at-once"):
        assert expected in out
    written = json.loads(file.read_text())
    assert written["is_estimated"] is True
    assert all(len(policy["seconds"]) == 3 for policy in written["arms"].values())
    assert written["arms"]["oracle"]["regret_mean"] == 0


def test_the_predictor_gets_the_response_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    caps = []
    compare = simulation.compare
    monkeypatch.setattr(
        simulation,
        "compare",
        lambda *stages, **options: caps.append(options["max_tokens"]) or compare(*stages, **options),
    )
    assert taper("--stages", 1, "--prompts", 1, "--samples", 2, "--max-tokens", 100_000) == 0
    assert caps == [100_000]


def test_a_runs_own_stages_are_read_from_its_output_directory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in (1, 2):
        stage_file(tmp_path / "traces", number, [request(10 * number), request(300, "q")])
    assert [len(stage) for stage in simulation.read_traces(tmp_path)] == [2, 2]
    assert taper("--trace", tmp_path) == 0
    assert "2 stages of" in capsys.readouterr().out


def test_a_profile_comes_from_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "profile.json"
    write_profile(a40_14b(), file)
    assert taper(*SMALL, "--profile", file) == 0
    assert "A40" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--regime", "gamma"), "--regime: 'gamma' is unknown; use lognormal"),
        (("--stages", "0"), "--stages: 0 is not 1 or more"),
        (("--prompts", "0"), "--prompts: 0 is not 1 or more"),
        (("--max-tokens", "-1"), "--max-tokens: -1 is not 1 or more"),
        (("--prompt-tokens", "0"), "--prompt-tokens: 0 is not 1 or more"),
        (
            ("--profile", "none.json"),
            "--profile: none.json does not exist; name a file, or use h100-8b or a40-14b",
        ),
        (("--trace", "nowhere"), "--trace: nowhere has no stage-*.json"),
    ],
    ids=str,
)
def test_bad_options_are_reported_with_their_name(
    arguments: tuple[str, str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert taper(*arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"requests": []}', "has no request"),
        ('{"requests": [{"prompt": "p", "prompt_tokens": 5}]}', "KeyError: 'response_tokens'"),
        (json.dumps({"requests": [request(-3)]}), "response_tokens of request stage-00001-0-0 is -3"),
        (json.dumps({"requests": [request("7")]}), "is '7'"),
        ('{"requests": [', "JSONDecodeError"),
        ('{"step": 1}', "KeyError: 'requests'"),
    ],
    ids=["empty", "gap", "negative", "text", "truncated", "other"],
)
def test_a_trace_that_cannot_be_used_is_reported(
    content: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage_file(tmp_path, 1, []).write_text(content)
    assert taper("--trace", tmp_path) == 2
    error = capsys.readouterr().err
    assert "--trace: stage-00001-0.json" in error and message in error


def test_a_broken_profile_is_reported_with_its_field(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "profile.json"
    file.write_text('{"format": 99}')
    assert taper("--profile", file) == 2
    assert f"--profile {file}" in capsys.readouterr().err

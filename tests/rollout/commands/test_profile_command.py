"""`taper profile` as a user sees it, and jobs that name a profile. The measurement itself is replaced."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from taper_api.status.termination_message import termination_message_in
from taper_policy.profile.file import profile_as_json, read_profile, write_profile
from taper_policy.profile.profile import Profile
from taper_rollout import cli
from taper_rollout.commands import profile as command
from taper_rollout.job.requirements import model_config
from taper_rollout.profiling.key import profile_key

from ..conftest import TinySample
from ..measured_profile import measured_profile

Measuring = Callable[[Callable[[], Profile]], list[Any]]


@pytest.fixture
def job_file(tiny_sample: TinySample) -> Path:
    return tiny_sample("qwen3") / "job.yaml"


@pytest.fixture
def profile_of_job(job_file: Path) -> Profile:
    config = model_config(str(job_file.parent / "model"))
    return measured_profile(profile_key(config, dtype="float32", device="cpu", footprint=2))


@pytest.fixture
def measuring(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Measuring:
    """Replaces the engine: `measuring(f)` makes `f()` the measured profile, and lists the calls."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "160")

    def replace(found: Callable[[], Profile]) -> list[Any]:
        asked: list[Any] = []

        async def measured(settings: Any, grid: Any, on_progress: Any) -> Profile:
            asked.append((settings, grid))
            on_progress(0.5, "TP1: 4 requests")
            return found()

        monkeypatch.setattr(command, "_measured_on_engine", measured)
        return asked

    return replace


def taper(*arguments: object) -> int:
    return cli.main([str(argument) for argument in arguments])


# -- a job's own profile -------------------------------------------------------------------


def run_with(job_file: Path, profile: Path, *arguments: object) -> int:
    setting = f"spec.rollout.profile={profile}"
    return taper("run", "-f", job_file, "--set", setting, "--dry-run", *arguments)


def test_a_matching_profile_reaches_the_replicas(
    job_file: Path, profile_of_job: Profile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "p.json"
    write_profile(profile_of_job, file)
    assert run_with(job_file, file) == 0
    config = yaml.safe_load(capsys.readouterr().out)
    assert config["actor_rollout_ref"]["rollout"]["custom"]["profile"] == str(file)


def truncated(document: dict[str, Any]) -> bytes:
    whole = json.dumps(document).encode()
    return whole[: len(whole) // 2]


def changed(change: Callable[[dict[str, Any]], Any]) -> Callable[[dict[str, Any]], bytes]:
    def made(document: dict[str, Any]) -> bytes:
        change(document)
        return json.dumps(document).encode()

    return made


BAD_FILES = [
    (truncated, ["spec.rollout.profile: ", " is not whole JSON"]),
    (lambda _: b"", ["spec.rollout.profile: ", " is not whole JSON"]),
    (
        changed(lambda d: d.update(format_version=7)),
        ["spec.rollout.profile.format_version: 7 cannot be read"],
    ),
    (
        changed(lambda d: d["cells"][2].update(seconds=-0.5)),
        ["spec.rollout.profile.cells[2].seconds: -0.5 is not a finite number above zero"],
    ),
    (
        changed(lambda d: d["cells"][2].update(seconds=1e9)),
        ["spec.rollout.profile.cells[2].seconds: 1000000000.0 is "],
    ),
    (
        changed(lambda d: d["key"].update(model="llama-0123", dtype="bfloat16")),
        [
            "spec.rollout.profile.key.model: the profile is of 'llama-0123', here it must be 'qwen3-",
            "spec.rollout.profile.key.dtype: the profile is of 'bfloat16', here it must be 'float32'",
        ],
    ),
    (
        changed(lambda d: d["key"].update(device="NVIDIA H100")),
        ["spec.rollout.profile.key.device: the profile is of 'NVIDIA H100'"],
    ),
    (
        changed(lambda d: d["key"]["versions"].update(sglang="0.4")),
        ["spec.rollout.profile.key.versions.sglang: the profile is of '0.4', here it must be '0.5.23'"],
    ),
]


@pytest.mark.parametrize(("spoil", "expected"), BAD_FILES)
def test_a_profile_that_cannot_be_used_is_bad_input(
    job_file: Path,
    profile_of_job: Profile,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[dict[str, Any]], bytes],
    expected: list[str],
) -> None:
    file = tmp_path / "p.json"
    file.write_bytes(spoil(profile_as_json(profile_of_job)))
    assert run_with(job_file, file) == 2
    *lines, last = capsys.readouterr().err.splitlines()
    assert termination_message_in(last) is not None  # for programs
    assert len(lines) == (1 if len(expected) == 2 and expected[1].startswith(" ") else len(expected))
    error = "\n".join(lines)
    assert all(text in error for text in expected), error
    assert all(line.startswith("taper: spec.rollout.profile") for line in lines)
    assert "Traceback" not in error
    assert "`taper profile -f JOB`" in error


def test_a_profile_of_another_footprint_is_bad_input(
    job_file: Path, profile_of_job: Profile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "p.json"
    write_profile(profile_of_job, file)
    settings = ("--set", "spec.rollout.footprint=4", "--set", "spec.training.ranks=4")
    device = profile_key(
        model_config(str(job_file.parent / "model")), dtype="float32", device="cpu", footprint=4
    ).device
    write_profile(
        dataclasses.replace(profile_of_job, key=dataclasses.replace(profile_of_job.key, device=device)),
        file,
    )
    assert run_with(job_file, file, *settings, "--set", "spec.rollout.degrees=[1, 2, 4]") == 2
    assert (
        "taper: spec.rollout.profile.footprint: the profile is for 2 ranks, not 4" in capsys.readouterr().err
    )


def test_a_missing_profile_is_bad_input(
    job_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_with(job_file, tmp_path / "none.json") == 2
    assert "taper: spec.rollout.profile: there is no file" in capsys.readouterr().err


def test_on_a_cluster_the_replicas_compare_device_and_versions(
    job_file: Path, profile_of_job: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "somewhere:6379")
    elsewhere = dataclasses.replace(profile_of_job.key, device="NVIDIA H100", versions={"sglang": "0"})
    write_profile(dataclasses.replace(profile_of_job, key=elsewhere), tmp_path / "p.json")
    assert run_with(job_file, tmp_path / "p.json") == 0
    other = dataclasses.replace(profile_of_job.key, model="llama-0")
    write_profile(dataclasses.replace(profile_of_job, key=other), tmp_path / "p.json")
    assert run_with(job_file, tmp_path / "p.json") == 2


# -- the command ---------------------------------------------------------------------------


def test_the_profile_of_a_job_goes_to_the_users_store(
    job_file: Path,
    measuring: Measuring,
    profile_of_job: Profile,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked = measuring(lambda: profile_of_job)
    assert taper("profile", "-f", job_file, "--quick") == 0
    [(settings, grid)] = asked
    rollout = settings.rollout
    assert (rollout.footprint, rollout.degrees, settings.dtype) == (2, (1, 2), "float32")
    assert (rollout.kv_tokens, rollout.max_running_requests, settings.context_tokens) == (16384, 128, 128)
    assert grid.max_visits == 1
    files = sorted((tmp_path / "cache" / "taper" / "profiles").iterdir())
    assert [file.suffix for file in files] == [".json", ".png"]
    assert read_profile(files[0]) == profile_of_job
    out = capsys.readouterr().out
    for expected in ("TP1, 2 groups busy", "TP1→TP2", "held-out step error 2.1%", "50% TP1: 4 requests"):
        assert expected in out
    assert f"written to {files[0]} and {files[1].name}" in out


def test_runs_find_the_measured_profile(
    job_file: Path, measuring: Measuring, profile_of_job: Profile, tmp_path: Path
) -> None:
    from taper_rollout.profiling.store import stored_profile, wanted_of

    asked = measuring(lambda: profile_of_job)
    assert taper("profile", "-f", job_file) == 0
    settings, grid = asked[0]
    assert grid.max_visits > 1
    assert stored_profile(tmp_path / "cache" / "taper" / "profiles", wanted_of(settings)) == profile_of_job


def test_the_profile_of_a_model_without_a_job_goes_to_a_file(
    job_file: Path, measuring: Measuring, profile_of_job: Profile, tmp_path: Path
) -> None:
    asked = measuring(lambda: profile_of_job)
    model, file = job_file.parent / "model", tmp_path / "new" / "p.json"
    assert (
        taper("profile", "--model", model, "--footprint", 4, "--context-tokens", 500, "--output", file) == 0
    )
    [(settings, _)] = asked
    assert (settings.rollout.degrees, settings.context_tokens, settings.dtype) == ((1, 2, 4), 500, "float32")
    assert read_profile(file) == profile_of_job
    assert file.with_suffix(".png").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "no/such"], "taper: --model: "),
        (
            ["--model", "MODEL", "--footprint", "3"],
            "taper: --footprint: 3 is not a power of two; use 1, 2, 4 or 8",
        ),
        (["--model", "MODEL", "--footprint", "8"], "taper: --footprint: 8 ranks are more than"),
        (
            ["--model", "MODEL", "--context-tokens", "14"],
            "taper: --context-tokens: contexts of 6 tokens are too",
        ),
        (["-f", "none.yaml"], "taper: none.yaml: there is no such file"),
        (["-f", "JOB", "--set", "spec.rollout.degrees=[1, 3]"], "taper: spec.rollout.degrees[1]: 3 is not"),
        (
            ["-f", "JOB", "--output", "/proc/p.json"],
            "taper: --output: /proc/p.json cannot be written",
        ),
    ],
)
def test_bad_input_is_refused_before_an_engine_is_started(
    job_file: Path,
    measuring: Measuring,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    asked = measuring(lambda: pytest.fail("measured"))
    places = {"MODEL": str(job_file.parent / "model"), "JOB": str(job_file)}
    assert taper("profile", *(places.get(argument, argument) for argument in arguments)) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert asked == []


def test_a_failed_measurement_leaves_no_file(
    job_file: Path, measuring: Measuring, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> Profile:
        raise TimeoutError("the requests did not decode in 300 s")

    measuring(fail)
    assert taper("profile", "-f", job_file, "--output", tmp_path / "p.json") == 1
    assert "taper: TimeoutError: the requests did not decode" in capsys.readouterr().err
    assert not (tmp_path / "p.json").exists()


def test_the_profile_that_the_job_names_is_ignored(
    job_file: Path, measuring: Measuring, profile_of_job: Profile, tmp_path: Path
) -> None:
    """It may be the file that is about to be written."""
    measuring(lambda: profile_of_job)
    (tmp_path / "old.json").write_text("{")
    arguments = ("--set", f"spec.rollout.profile={tmp_path / 'old.json'}", "--output", tmp_path / "p.json")
    assert taper("profile", "-f", job_file, *arguments) == 0

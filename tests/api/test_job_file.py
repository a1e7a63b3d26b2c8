"""Reading a job's file: syntax, scalars, paths."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

from taper_api import JobError, Problem, RLHFJob, check_files, load_job, parse_job

JOB = """\
apiVersion: taper.dev/v1alpha1
kind: RLHFJob
metadata: {name: demo}
spec:
  model: {path: models/tiny}
  data: {train: [data/train.jsonl], validation: [/abs/valid.parquet]}
  reward: {function: "mine.py:score"}
  algorithm: {learningRate: 1e-6}
  training: {steps: 3, batchPrompts: 4, ranks: 2, checkpoints: {directory: saved, everySteps: 1}}
  rollout: {footprint: 2, mode: off, samplesPerPrompt: 4, responseTokens: 128}
"""


def message(action: Any, *arguments: Any) -> str:
    with pytest.raises(JobError) as caught:
        action(*arguments)
    return str(caught.value)


def written(folder: Path, text: str = JOB) -> Path:
    file = folder / "job.yaml"
    file.write_text(text)
    return file


def test_scalars_are_read_as_written(tmp_path: Path) -> None:
    spec = load_job(written(tmp_path)).spec
    assert spec.rollout.mode == "off"
    assert spec.algorithm.learning_rate == 1e-6


def test_relative_paths_are_resolved_against_the_file(tmp_path: Path) -> None:
    (tmp_path / "models" / "tiny").mkdir(parents=True)
    spec = load_job(written(tmp_path)).spec
    assert spec.model.path == str(tmp_path / "models" / "tiny")
    assert spec.data.train == (str(tmp_path / "data" / "train.jsonl"),)
    assert spec.data.validation == ("/abs/valid.parquet",)
    assert spec.reward.function == f"{tmp_path}/mine.py:score"
    assert spec.training.checkpoints.directory == str(tmp_path / "saved")


def test_a_model_that_is_no_directory_is_an_id(tmp_path: Path) -> None:
    assert load_job(written(tmp_path)).spec.model.path == "models/tiny"


def test_a_built_in_reward_is_no_path(tmp_path: Path) -> None:
    job = load_job(written(tmp_path, JOB.replace('"mine.py:score"', "exact-match")))
    assert job.spec.reward.function == "exact-match"


def test_missing_file(tmp_path: Path) -> None:
    file = tmp_path / "no.yaml"
    assert message(load_job, file) == f"{file}: there is no such file; check the path of the job"


def test_directory(tmp_path: Path) -> None:
    assert message(load_job, tmp_path) == f"{tmp_path}: is a directory; name a YAML file in it"


def test_binary_file(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_bytes(b"\xff\xfe\x00")
    assert "is not UTF-8 text" in message(load_job, file)


BAD_YAML = [
    ("kind: [", "job.yaml, line 1"),
    ("kind: a\nspec: {a: 1\nb: 2", "job.yaml, line 3"),
    ("kind: a\nkind: b", "job.yaml, line 2, column 1: is not valid YAML: kind is given twice"),
    ("a: !!python/object:os.system x", "job.yaml, line 1"),
    ("\x01", "job.yaml: is not valid YAML"),
    ("", "job.yaml: is empty"),
    ("# nothing\n", "job.yaml: is empty"),
    ("- a\n- b", "job.yaml: is not one mapping"),
    (f"{JOB}---\n{JOB}", "job.yaml: is not one mapping"),
]


@pytest.mark.parametrize(("text", "start"), BAD_YAML)
def test_bad_yaml(text: str, start: str) -> None:
    assert message(parse_job, text, "job.yaml").startswith(start)


SCALARS = [
    ("010", 10),
    ("-3", -3),
    ("1e3", 1000.0),
    ("1.", 1.0),
    ("yes", "yes"),
    ("off", "off"),
    ("true", True),
    ("null", None),
    ("~", None),
    ("2024-01-01", "2024-01-01"),
    ("1_000", "1_000"),
    ("0x10", "0x10"),
    ("'1'", "1"),
]


@pytest.mark.parametrize(("text", "value"), SCALARS)
def test_scalars_follow_yaml_1_2(text: str, value: object) -> None:
    job = parse_job(JOB.replace('"mine.py:score"', f"math, settings: {{value: {text}}}"), "job.yaml")
    assert job.spec.reward.settings == {"value": value}


def nested(levels: int) -> str:
    return "{a: " * levels + "1" + "}" * levels


DEEP_FIELDS = [
    ("spec.verl", lambda value: f"{JOB}  verl: {value}\n"),
    ("spec.reward.settings", lambda value: JOB.replace('"mine.py:score"', f"math, settings: {value}")),
]


@pytest.mark.parametrize(("path", "text"), DEEP_FIELDS, ids=[path for path, _ in DEEP_FIELDS])
def test_the_depth_of_settings_is_bounded(path: str, text: Any) -> None:
    parse_job(text(nested(32)), "job.yaml")
    expected = f"{path}: is nested too deep; use at most 32 levels of mappings and lists"
    # Not too deep for Python; too deep for it; a list; JSON; and one that contains itself.
    for value in (
        nested(33),
        nested(1_100),
        nested(20_000),
        f"{{a: {'[' * 1_100}{']' * 1_100}}}",
        '{"a": ' * 1_100 + "1" + "}" * 1_100,
        "&a {x: *a}",
    ):
        assert message(parse_job, text(value), "job.yaml") == expected
    block = "\n".join(f"{' ' * (4 + level)}a:" for level in range(600))
    assert (
        message(parse_job, text(f"\n{block}") if path == "spec.verl" else text(nested(99)), "a") == expected
    )


@pytest.mark.parametrize("levels", [99, 1_100])
def test_deep_content_in_another_field_is_refused(levels: int) -> None:
    line = message(parse_job, JOB.replace("steps: 3", f"steps: {nested(levels)}"), "job.yaml")
    assert line.startswith("spec.training.steps: {'a': ")


def test_aliases_that_multiply_are_counted_once() -> None:
    lists = "".join(f"    l{level}: &l{level} [*l{level - 1}, *l{level - 1}]\n" for level in range(1, 60))
    text = f"{JOB}  verl:\n    l0: &l0 []\n{lists}"
    assert message(parse_job, text, "job.yaml").startswith("spec.verl: is nested too deep")


def test_names_that_are_not_text() -> None:
    line = message(parse_job, JOB.replace("steps: 3", "steps: 3, 1: 2"), "job.yaml")
    assert "the name of a field is not text; quote it" in line


@pytest.mark.parametrize("number", [".nan", ".inf"])
def test_numbers_are_finite(number: str) -> None:
    line = message(parse_job, JOB.replace("1e-6", number), "job.yaml")
    assert line.startswith("spec.algorithm.learningRate: ")
    assert "finite" in line


def job_with_files(folder: Path) -> RLHFJob:
    model = folder / "models" / "tiny"
    model.mkdir(parents=True)
    for file in (model / "config.json", model / "tokenizer.json", folder / "mine.py", folder / "train.jsonl"):
        file.write_text("{}")
    text = JOB.replace("data/train.jsonl", "train.jsonl").replace(", validation: [/abs/valid.parquet]", "")
    return load_job(written(folder, text))


def test_existing_files_pass(tmp_path: Path) -> None:
    check_files(job_with_files(tmp_path))


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("train.jsonl", "spec.data.train[0]: there is no file"),
        ("mine.py", "spec.reward.function: there is no file"),
        ("models/tiny/config.json", "spec.model.path: there is no config.json in"),
        ("models/tiny/tokenizer.json", "spec.model.path: there is no tokenizer in"),
    ],
)
def test_missing_files_are_named(tmp_path: Path, file: str, line: str) -> None:
    job = job_with_files(tmp_path)
    (tmp_path / file).unlink()
    assert message(check_files, job).startswith(line)


def test_a_missing_model_directory_is_named(tmp_path: Path) -> None:
    job = job_with_files(tmp_path)
    elsewhere = job.spec.model_copy(
        update={"model": job.spec.model.model_copy(update={"path": "/none/there"})}
    )
    assert message(check_files, job.model_copy(update={"spec": elsewhere})) == (
        "spec.model.path: there is no directory /none/there; "
        "name a model directory in Hugging Face form, or a Hugging Face id"
    )


def test_an_error_is_pickled_with_its_problems() -> None:
    error = JobError(
        [Problem(path="spec.a", message="is bad", remedy="mend it"), Problem(path="spec.b", message="too")]
    )
    copied = pickle.loads(pickle.dumps(error))
    assert (type(copied), copied.problems, str(copied)) == (JobError, error.problems, str(error))

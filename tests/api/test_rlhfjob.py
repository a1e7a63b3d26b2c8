"""What a job may say: defaults, single fields, and fields that contradict each other."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from taper_api import JobError, RLHFJob, parse_job
from taper_api.job.spec import RewardSpec

from .job_specs import valid_jobs


def test_defaults(job: Any) -> None:
    spec = job().spec
    assert spec.rollout.degrees == (1, 2, 4)
    assert spec.rollout.mode == "enforce"
    assert spec.rollout.policy.name == "predictor"
    assert spec.rollout.policy.predictor is None
    assert spec.rollout.switch.kv == "auto"
    assert spec.algorithm.name == "grpo"
    assert spec.training.checkpoints.resume == "auto"
    assert spec.gpus_per_node == 4
    assert spec.node_pools.gpu.nodes is None
    assert (spec.backoff_limit, spec.suspend, spec.submission_mode) == (3, False, "HTTPMode")


FIELD_ERRORS = [
    ({"spec__rollout__footprint": 3}, "spec.rollout.footprint: 3 is not a power of two; use 1, 2, 4 or 8"),
    ({"spec__rollout__footprint": 16}, "spec.rollout.footprint: 16 is larger than 8; use 1, 2, 4 or 8"),
    (
        {"spec__rollout__degrees": [1, 3, 4]},
        "spec.rollout.degrees[1]: 3 is not a power of two; use 1, 2, 4 or 8",
    ),
    ({"spec__rollout__degrees": []}, "spec.rollout.degrees: is empty; list at least one"),
    ({"spec__rollout__degrees": 2}, "spec.rollout.degrees: 2 is not a list; write [2]"),
    (
        {"spec__rollout__mode": "on"},
        "spec.rollout.mode: 'on' is not allowed; use 'off', 'advise' or 'enforce'",
    ),
    (
        {"spec__training__steps": 0},
        "spec.training.steps: 0 is not valid; it must be greater than or equal to 1",
    ),
    ({"spec__training__steps": "3"}, "spec.training.steps: '3' is not valid; it must be a valid integer"),
    ({"spec__training__steps": True}, "spec.training.steps: True is not valid; it must be a valid integer"),
    (
        {"spec__data__train": ["a.csv"]},
        "spec.data.train[0]: 'a.csv' is neither parquet nor jsonl; name a .parquet or .jsonl file",
    ),
    ({"spec__model__path": ""}, "spec.model.path: is empty; give it a value"),
    ({"spec__model": "some/model"}, "spec.model: 'some/model' is not a mapping; write name: value"),
    (
        {"spec__reward__function": "mine.txt:score"},
        "spec.reward.function: 'mine.txt:score' is neither a built-in reward nor file.py:function; "
        "write it like exact-match or rewards/mine.py:score",
    ),
    (
        {"metadata__name": "A_job"},
        "metadata.name: 'A_job' does not fit; "
        "Name of the job: at most 42 lower-case letters, digits and inner dashes; a letter first.",
    ),
    (
        {"spec__rollout__metrics": {"port": 80}},
        "spec.rollout.metrics.port: 80 is not valid; it must be greater than or equal to 1024",
    ),
    ({"spec__rollout__metrics": {"host": ""}}, "spec.rollout.metrics.host: is empty; give it a value"),
    ({"spec__rollout__metrics": 9400}, "spec.rollout.metrics: 9400 is not a mapping; write name: value"),
    ({"apiVersion": "v1"}, "apiVersion: 'v1' is not allowed; use 'taper.dev/v1alpha1'"),
    (
        {"spec__algorithm__learningRate": 0},
        "spec.algorithm.learningRate: 0 is not valid; it must be greater than 0",
    ),
]


@pytest.mark.parametrize(("changes", "line"), FIELD_ERRORS, ids=[line for _, line in FIELD_ERRORS])
def test_field_errors(problems: Any, changes: dict[str, Any], line: str) -> None:
    assert problems(**changes) == [line]


def test_missing_field(problems: Any, missing: object) -> None:
    assert problems(spec__training__steps=missing) == [
        "spec.training.steps: is missing; add it; it has no default"
    ]


UNKNOWN = [
    ("spec__rollout__footprnt", "spec.rollout.footprnt: unknown field; did you mean footprint?"),
    (
        "spec__training__batch_prompts",
        "spec.training.batch_prompts: unknown field; did you mean batchPrompts?",
    ),
    (
        "spec__training__responseTokens",
        "spec.training.responseTokens: unknown field; did you mean spec.rollout.responseTokens?",
    ),
    ("specs", "specs: unknown field; did you mean spec?"),
    ("spec__reward__zzz", "spec.reward.zzz: unknown field; known here: function, settings"),
]


@pytest.mark.parametrize(("path", "line"), UNKNOWN)
def test_unknown_fields(problems: Any, path: str, line: str) -> None:
    assert problems(**{path: 1}) == [line]


def test_unknown_field_in_a_list_of_blocks(problems: Any) -> None:
    policy = {"name": "schedule", "schedule": [{"tokens": 8, "degree": 2, "dgree": 2}]}
    assert problems(spec__rollout__policy=policy) == [
        "spec.rollout.policy.schedule[0].dgree: unknown field; did you mean degree?"
    ]


def test_all_problems_are_reported_at_once(problems: Any) -> None:
    lines = problems(spec__rollout__footprint=3, spec__training__steps=0)
    assert [line.partition(":")[0] for line in lines] == ["spec.training.steps", "spec.rollout.footprint"]


def schedule(*points: tuple[int, int]) -> dict[str, Any]:
    return {
        "name": "schedule",
        "schedule": [{"tokens": tokens, "degree": degree} for tokens, degree in points],
    }


CONTRADICTIONS = [
    ({"spec__rollout__degrees": [1, 2]}, "spec.rollout.degrees", "the footprint is 4"),
    ({"spec__rollout__degrees": [2, 1, 4]}, "spec.rollout.degrees[1]", "1 comes after 2"),
    ({"spec__rollout__degrees": [1, 4, 4]}, "spec.rollout.degrees[2]", "4 comes after 4"),
    ({"spec__training__ranks": 6, "spec__training__batchPrompts": 6}, "spec.training.ranks", "such as 8"),
    ({"spec__training__ranks": 2}, "spec.training.ranks", "such as 4"),
    (
        {"spec__training__batchPrompts": 3, "spec__training__ranks": 8},
        "spec.training.batchPrompts",
        "8 ranks",
    ),
    ({"spec__algorithm__miniBatchPrompts": 3}, "spec.algorithm.miniBatchPrompts", "does not divide"),
    ({"spec__rollout__samplesPerPrompt": 1}, "spec.rollout.samplesPerPrompt", "2 or more"),
    ({"spec__rollout__policy": {"name": "schedule"}}, "spec.rollout.policy.schedule", "is missing"),
    ({"spec__rollout__policy": {"name": "threshold"}}, "spec.rollout.policy.threshold", "is missing"),
    (
        {"spec__rollout__policy": {"name": "widen-at-once", "predictor": {"confidence": 0.5}}},
        "spec.rollout.policy.predictor",
        "the policy is widen-at-once",
    ),
    (
        {"spec__rollout__policy": {**schedule((8, 2)), "name": "threshold", "threshold": {}}},
        "spec.rollout.policy.schedule",
        "the policy is threshold",
    ),
    (
        {"spec__rollout__policy": schedule((8, 8))},
        "spec.rollout.policy.schedule[0].degree",
        "not among the degrees [1, 2, 4]",
    ),
    ({"spec__rollout__policy": schedule((8, 1))}, "spec.rollout.policy.schedule[0].degree", "1 already"),
    (
        {"spec__rollout__policy": schedule((8, 2), (9, 2))},
        "spec.rollout.policy.schedule[1].degree",
        "2 already",
    ),
    (
        {"spec__rollout__policy": schedule((8, 2), (8, 4))},
        "spec.rollout.policy.schedule[1].tokens",
        "ascending",
    ),
    (
        {"spec__rollout__policy": schedule((128, 2))},
        "spec.rollout.policy.schedule[0].tokens",
        "longer than 128",
    ),
    ({"spec__rollout__kvTokens": 639}, "spec.rollout.kvTokens", "one request of 640"),
    (
        {"spec__rollout__port": 9000, "spec__rollout__metrics": {"port": 9001}, "spec__training__nodes": 2},
        "spec.rollout.metrics.port",
        "9001 is the port of replica 1's status server; use 9002 or above",
    ),
    ({"spec__training__validation": {"before": True}}, "spec.training.validation.before", "no validation"),
    (
        {"spec__training__validation": {"everySteps": 1}},
        "spec.training.validation.everySteps",
        "no validation",
    ),
    ({"spec__training__checkpoints": {"keep": 2}}, "spec.training.checkpoints.keep", "ever saved"),
    (
        {"spec__verl": {"actor_rollout_ref.rollout.custom.degrees": [1]}},
        "spec.verl['actor_rollout_ref.rollout.custom.degrees']",
        "is set by spec.rollout",
    ),
    ({"spec__verl": {"+trainer.x": 1}}, "spec.verl['+trainer.x']", "not a plain dotted name"),
    (
        {"spec__verl": {"trainer": {"nnodes": 2, "device": "cuda"}}},
        "spec.verl['trainer']",
        "is set by spec.training.nodes",
    ),
    (
        {"spec__nodePools": {"gpu": {"gpusPerNode": 8}}},
        "spec.nodePools.gpu.gpusPerNode",
        "spec.training.ranks is 4",
    ),
    (
        {"spec__nodePools": {"gpu": {"gpusPerNode": 4, "nodes": 3}}},
        "spec.nodePools.gpu.nodes",
        "spec.training.nodes is 1",
    ),
]


@pytest.mark.parametrize(("changes", "path", "words"), CONTRADICTIONS)
def test_contradictions(problems: Any, changes: dict[str, Any], path: str, words: str) -> None:
    (line,) = problems(**changes)
    assert line.startswith(f"{path}: ")
    assert words in line


def test_off_contradicts_nothing(job: Any) -> None:
    assert job(spec__rollout__mode="off", spec__rollout__policy=schedule((8, 2))).spec.rollout.mode == "off"


@pytest.mark.parametrize("port", [8999, 9001])
def test_metrics_may_have_any_port_but_the_status_servers(job: Any, port: int) -> None:
    assert job(spec__rollout__port=9000, spec__rollout__metrics={"port": port})


def test_one_sample_is_enough_for_ppo(job: Any) -> None:
    assert job(spec__rollout__samplesPerPrompt=1, spec__algorithm__name="ppo")


def test_other_settings_of_verl_are_free(job: Any) -> None:
    settings = {"trainer.logger": ["console"], "actor_rollout_ref.actor.optim.lr": 1e-5, "trainer.x": None}
    assert job(spec__verl=settings).spec.verl == settings


def test_values_never_change(job: Any) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        job().spec.training.steps = 4


def test_reward_file() -> None:
    assert RewardSpec(function="exact-match").file is None
    file, function = RewardSpec(function="some/mine.py:score").file or ("", "")
    assert (str(file), function) == ("some/mine.py", "score")


@given(valid_jobs())
def test_valid_jobs_survive_a_round_trip(content: dict[str, Any]) -> None:
    first = parse_job(json.dumps(content), "job.yaml")
    dumped = first.model_dump(mode="json", exclude_none=True)
    assert parse_job(json.dumps(dumped), "job.yaml") == first
    assert first.spec.rollout.degrees[-1] == first.spec.rollout.footprint


@given(valid_jobs(), st.data())
def test_one_wrong_value_is_reported_with_its_path(content: dict[str, Any], data: st.DataObject) -> None:
    wrong = data.draw(st.sampled_from([None, -1, "zz", [], {}, 1.5, True]))
    section, field = data.draw(
        st.sampled_from([("training", "steps"), ("rollout", "footprint"), ("rollout", "responseTokens")])
    )
    content["spec"][section][field] = wrong
    with pytest.raises(JobError) as caught:
        parse_job(json.dumps(content), "job.yaml")
    assert [problem.path for problem in caught.value.problems] == [f"spec.{section}.{field}"]


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists))
def test_any_content_raises_only_job_errors(content: Any) -> None:
    with pytest.raises(JobError):
        parse_job(json.dumps({"spec": content}), "job.yaml")


def test_blocks_are_constructed_by_python_names(job: Any) -> None:
    by_alias = job()
    assert RLHFJob(
        api_version="taper.dev/v1alpha1", kind="RLHFJob", metadata=by_alias.metadata, spec=by_alias.spec
    )

"""The rollout block through VeRL: what is read is what was written, and errors name VeRL's settings."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from omegaconf import OmegaConf

from taper_api import JobError, RLHFJob
from taper_rollout.job.host import HostResources
from taper_rollout.training import compose, verl_overrides
from taper_rollout.verl.custom_block import CUSTOM, ROLLOUT, VERL_SETTINGS, read_block, written_block

from ...api.job_specs import valid_jobs
from ...examples import examples

SIZES = {
    "tensor_model_parallel_size": 4,
    "n": 8,
    "response_length": 16,
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": -1,
}


def read(custom: Any, **verl: Any) -> Any:
    return read_block(SimpleNamespace(custom=custom, **SIZES | verl))


def problems(custom: Any, **verl: Any) -> list[str]:
    with pytest.raises(JobError) as caught:
        read(custom, **verl)
    return [str(problem) for problem in caught.value.problems]


@examples(200)
@given(valid_jobs())
def test_what_is_read_is_what_was_written(job: dict[str, Any]) -> None:
    spec = RLHFJob.model_validate(job).spec
    whole = spec.rollout.model_dump()
    verl = {setting: _at(whole, path) for path, setting in VERL_SETTINGS.items()}
    block = read(written_block(spec.rollout, run="taper_run_1", output="/runs/a"), **verl)
    assert block.model_dump(exclude={"run", "output", "host", "profiles"}) == whole
    assert (block.run, block.output) == ("taper_run_1", "/runs/a")


def _at(block: dict[str, Any], path: str) -> Any:
    for name in path.split("."):
        block = block[name]
    return block


def test_a_job_arrives_through_verls_configuration() -> None:
    content = {
        "apiVersion": "taper.dev/v1alpha1",
        "kind": "RLHFJob",
        "metadata": {"name": "tiny"},
        "spec": {
            "model": {"path": "/models/tiny"},
            "data": {"train": ["/data/train.jsonl"]},
            "reward": {"function": "gsm8k"},
            "training": {"steps": 5, "batchPrompts": 8, "ranks": 4},
            "rollout": {
                "footprint": 4,
                "degrees": [2, 4],
                "mode": "advise",
                "policy": {"name": "schedule", "schedule": [{"tokens": 4, "degree": 4}]},
                "samplesPerPrompt": 2,
                "responseTokens": 99,
                "sampling": {"temperature": 0.5, "topP": 0.9, "topK": 7, "seed": 11},
                "switch": {"kv": "recompute", "timeoutSeconds": 5},
                "maxRunningRequests": 3,
                "kvTokens": 4096,
                "profile": "/it's here, now/p.json",
                "port": 9000,
                "metrics": {"host": "node", "port": 9400},
            },
        },
    }
    job = RLHFJob.model_validate(content)
    host = HostResources(num_gpus=0)
    config = compose(verl_overrides(job, host=host, output=Path("/runs/a"), run="taper_run_1"))
    block = read_block(config.actor_rollout_ref.rollout)
    own = {"run", "output", "host", "profiles"}
    assert block.model_dump(exclude=own) == job.spec.rollout.model_dump()


@pytest.mark.parametrize("custom", [None, {}, OmegaConf.create({}), {"degrees": None, "policy": None}])
def test_nothing_need_be_set(custom: Any) -> None:
    block = read(custom)
    assert (block.footprint, block.degrees, block.mode) == (4, (1, 2, 4), "enforce")
    assert (block.policy.name, block.switch.timeout_seconds, block.run) == ("predictor", 30.0, None)


def test_names_from_before_still_work() -> None:
    old = {
        "degrees": [1, 4],
        "kv": "recompute",
        "switch_timeout_seconds": 5,
        "seed": 3,
        "kv_tokens": 99,
        "max_running_requests": 7,
        "policy": {"name": "predictor", "predictor": {"margin_seconds": 0.5}},
        "profiles": "/profiles",
        "host": "node",
    }
    block = read(OmegaConf.create(old))
    assert (block.degrees, block.kv_tokens, block.max_running_requests) == ((1, 4), 99, 7)
    assert (block.switch.kv, block.switch.timeout_seconds, block.sampling.seed) == ("recompute", 5.0, 3)
    assert block.policy.predictor.margin_seconds == 0.5
    assert (block.profiles, block.host) == ("/profiles", "node")


@pytest.mark.parametrize(
    ("custom", "problem"),
    [
        ({"degree": [1]}, f"{CUSTOM}.degree: unknown field; did you mean degrees?"),
        ({"kv": "copy"}, f"{CUSTOM}.switch.kv: 'copy' is not allowed; use 'auto', 'migrate' or 'recompute'"),
        ({"mode": False}, f"{CUSTOM}.mode: False is not allowed; use 'off', 'advise' or 'enforce'"),
        ({"degrees": [1, 3]}, f"{CUSTOM}.degrees[1]: 3 is not a power of two; use 1, 2, 4 or 8"),
        ({"policy": {"name": "luck"}}, f"{CUSTOM}.policy.name: 'luck' is not allowed; use 'predictor', "),
        ({"metrics": 9400}, f"{CUSTOM}.metrics: 9400 is not a mapping; write name: value"),
        ({"sampling": 1}, f"{CUSTOM}.sampling: 1 is not a mapping; write name: value"),
        ({"metrics": {"prt": 9400}}, f"{CUSTOM}.metrics.prt: unknown field; did you mean port?"),
        ({"metrics": {"port": 80}}, f"{CUSTOM}.metrics.port: 80 is not valid; it must be greater than"),
        ({"footprint": 2}, f"{CUSTOM}.footprint: is set by {ROLLOUT}.tensor_model_parallel_size; remove it"),
        ({"sampling": {"topK": 3}}, f"{CUSTOM}.sampling.topK: is set by {ROLLOUT}.top_k; remove it here"),
        ({"degrees": [1, 2]}, f"{CUSTOM}.degrees: the widest degree is 2, but the footprint is 4; end the"),
        (
            {"policy": {"name": "widen-at-once", "threshold": {"requests": 2}}},
            f"{CUSTOM}.policy.threshold: is set, but the policy is widen-at-once; remove it, or set",
        ),
        ([1], f"{CUSTOM}: [1] is not a mapping; write {{name: value}}"),
    ],
    ids=str,
)
def test_a_wrong_field_is_named_as_its_author_wrote_it(custom: Any, problem: str) -> None:
    (found,) = problems(custom)
    assert found.startswith(problem)


def test_a_wrong_setting_of_verl_is_named_as_its_author_wrote_it() -> None:
    (found,) = problems({}, tensor_model_parallel_size=3)
    assert found == f"{ROLLOUT}.tensor_model_parallel_size: 3 is not a power of two; use 1, 2, 4 or 8"
    (found,) = problems({}, temperature=-1.0)
    assert found.startswith(f"{ROLLOUT}.temperature: -1.0 is not valid; it must be greater than or equal")

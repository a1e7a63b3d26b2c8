"""The support matrix: supported jobs pass, each limit is enforced, and paths are in the user's terms."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from taper_api import JobError
from taper_rollout.job.requirements import Facts, gather_facts, installed_versions, model_config
from taper_rollout.job.support_matrix import MATRIX, VERSIONS, check_support, support_matrix

DENSE = {
    "architectures": ["Qwen3ForCausalLM"],
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "intermediate_size": 4096,
    "use_sliding_window": False,
    "quantization_config": None,
}
FACTS = Facts(model=DENSE, settings={}, versions=VERSIONS, footprint=4, degrees=(1, 2, 4), ranks_per_node=8)


def nested(name: str, value: Any) -> dict[str, Any]:
    for part in reversed(name.split(".")):
        value = {part: value}
    return value


def with_model(**entries: Any) -> Facts:
    return dataclasses.replace(FACTS, model={**DENSE, **entries})


def with_setting(name: str, value: Any) -> Facts:
    return dataclasses.replace(FACTS, settings=nested(name, value))


MODEL = "spec.model.path"
ROLLOUT = "actor_rollout_ref.rollout"
ENGINE = f"{ROLLOUT}.engine_kwargs.sglang"

REFUSED = [
    ("model", with_model(architectures=["GPT2LMHeadModel"]), MODEL),
    ("model", with_model(architectures=None), MODEL),
    ("mixture of experts", with_model(num_experts=8), MODEL),
    ("multimodal models", with_model(vision_config={"depth": 2}), MODEL),
    ("sliding-window attention", with_model(use_sliding_window=True), MODEL),
    (
        "quantised weights or KV (fp8, int4, ...)",
        with_model(quantization_config={"quant_method": "fp8"}),
        MODEL,
    ),
    (
        "quantised weights or KV (fp8, int4, ...)",
        with_setting(f"{ROLLOUT}.quantization", "fp8"),
        f"spec.verl['{ROLLOUT}.quantization']",
    ),
    (
        "LoRA",
        with_setting("actor_rollout_ref.model.lora_rank", 16),
        "spec.verl['actor_rollout_ref.model.lora_rank']",
    ),
    (
        "LoRA",
        with_setting("actor_rollout_ref.model.lora.rank", 8),
        "spec.verl['actor_rollout_ref.model.lora.rank']",
    ),
    ("more ranks than KV heads", with_model(num_key_value_heads=2), "spec.rollout.footprint"),
    ("TP degrees", with_model(num_key_value_heads=6), "spec.rollout.degrees[2]"),
    ("TP degrees", with_model(num_attention_heads=18), "spec.rollout.degrees[2]"),
    ("TP degrees", with_model(intermediate_size=4098), "spec.rollout.degrees[2]"),
    (
        "footprint across nodes",
        dataclasses.replace(FACTS, ranks_per_node=2),
        "spec.rollout.footprint",
    ),
    (
        "pipeline parallelism",
        with_setting(f"{ROLLOUT}.pipeline_model_parallel_size", 2),
        f"spec.verl['{ROLLOUT}.pipeline_model_parallel_size']",
    ),
    (
        "expert parallelism",
        with_setting(f"{ROLLOUT}.expert_parallel_size", 2),
        f"spec.verl['{ROLLOUT}.expert_parallel_size']",
    ),
    (
        "data parallelism within a replica",
        with_setting(f"{ROLLOUT}.data_parallel_size", 2),
        f"spec.verl['{ROLLOUT}.data_parallel_size']",
    ),
    (
        "disaggregated prefill and decode",
        with_setting(f"{ROLLOUT}.disaggregation.enabled", True),
        f"spec.verl['{ROLLOUT}.disaggregation.enabled']",
    ),
    (
        "asynchronous trainers",
        with_setting("trainer.v1.trainer_mode", "colocate_async"),
        "spec.verl['trainer.v1.trainer_mode']",
    ),
    (
        "asynchronous trainers",
        with_setting("trainer.v1.trainer_mode", "separate_async"),
        "spec.verl['trainer.v1.trainer_mode']",
    ),
    (
        "speculative decoding",
        with_setting(f"{ENGINE}.speculative_algorithm", "EAGLE"),
        f"spec.verl['{ENGINE}.speculative_algorithm']",
    ),
    (
        "grammar-constrained decoding",
        with_setting(f"{ENGINE}.grammar_backend", "xgrammar"),
        f"spec.verl['{ENGINE}.grammar_backend']",
    ),
    ("KV page size", with_setting(f"{ENGINE}.page_size", 16), f"spec.verl['{ENGINE}.page_size']"),
    (
        "other SGLang arguments",
        with_setting(f"{ENGINE}.chunked_prefill_size", 64),
        f"spec.verl['{ENGINE}.chunked_prefill_size']",
    ),
    ("versions", dataclasses.replace(FACTS, versions={**VERSIONS, "sglang": "0.5.24"}), "package sglang"),
    ("versions", dataclasses.replace(FACTS, versions={"sglang": VERSIONS["sglang"]}), "package verl"),
]


def test_supported_features_pass() -> None:
    check_support(FACTS)
    check_support(with_model(architectures=["LlamaForCausalLM"]))
    check_support(with_model(num_key_value_heads=None, num_experts=0))
    check_support(with_setting(f"{ROLLOUT}.pipeline_model_parallel_size", 1))
    check_support(with_setting(f"{ENGINE}.grammar_backend", "none"))
    check_support(with_setting("trainer.v1.trainer_mode", "sync"))


@pytest.mark.parametrize(("feature", "facts", "path"), REFUSED)
def test_an_unsupported_feature_is_refused_by_its_field(feature: str, facts: Facts, path: str) -> None:
    (row,) = (row for row in MATRIX if row.feature == feature)
    with pytest.raises(JobError) as caught:
        check_support(facts)
    (problem,) = caught.value.problems
    assert problem.path == path
    assert problem.remedy == row.remedy
    assert problem.message


def test_every_limit_of_the_matrix_is_tested() -> None:
    assert {row.feature for row in MATRIX if row.checks} == {feature for feature, _, _ in REFUSED}


def test_all_problems_are_reported_at_once() -> None:
    facts = dataclasses.replace(with_model(num_experts=8), ranks_per_node=2, versions={})
    with pytest.raises(JobError) as caught:
        check_support(facts)
    assert len(caught.value.problems) == 4


@pytest.mark.parametrize(("feature", "facts", "path"), REFUSED)
def test_without_a_job_paths_are_verls_settings(feature: str, facts: Facts, path: str) -> None:
    with pytest.raises(JobError) as caught:
        check_support(dataclasses.replace(facts, is_raw=True))
    (problem,) = caught.value.problems
    assert "spec." not in problem.path


def test_the_page_has_a_line_for_each_row() -> None:
    page = support_matrix()
    assert all(f"| {row.feature} | {row.supported} |" in page for row in MATRIX)


def test_the_installed_versions_are_the_supported_ones() -> None:
    assert installed_versions() == VERSIONS


def test_facts_of_a_run(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(DENSE))
    settings = {
        "actor_rollout_ref": {
            "model": {"path": str(tmp_path)},
            "rollout": {"tensor_model_parallel_size": 2, "custom": {"degrees": [1, 2]}},
        },
        "trainer": {"n_gpus_per_node": 4},
    }
    facts = gather_facts(settings)
    assert (facts.footprint, facts.degrees, facts.ranks_per_node) == (2, (1, 2), 4)
    assert facts.model == DENSE
    check_support(facts)


def test_a_missing_directory_is_not_looked_up_on_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_: pytest.fail("looked up"))
    with pytest.raises(JobError, match=r"^spec\.model\.path: .*\(there is no such directory\); name a model"):
        model_config("./nowhere")


@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_a_model_without_a_config(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(JobError, match=r"^spec\.model\.path: .*config\.json"):
        model_config(str(tmp_path))

"""The support matrix: one table that the docs show and that every job is checked against at its start.

`check_support` is pure. It takes plain facts, so that it runs before SGLang, VeRL or torch are imported,
and names the field that asks for something unsupported.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from taper_api import JobError, Problem
from taper_rollout.job.requirements import Facts

ARCHITECTURES = ("LlamaForCausalLM", "Qwen3ForCausalLM")
VERSIONS = {"sglang": "0.5.23", "verl": "0.9.1"}

MODEL = "the model's config.json"
SETTINGS = "VeRL's settings"
JOB = "the job"
INSTALLED = "installed packages"

_REPLICA = "actor_rollout_ref.rollout"


Finding = tuple[str, str]
"""Path of the unsupported field, and what is wrong with it."""

Check = Callable[[Facts], Iterator[Finding]]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A row of the matrix.

    seen_in: where the feature is read from
    checks: each yields what is not supported; none where `RolloutSpec` has the rule
    """

    feature: str
    supported: str
    seen_in: str = ""
    remedy: str = ""
    checks: tuple[Check, ...] = ()


def _no(feature: str, seen_in: str, remedy: str, *checks: Check) -> Row:
    return Row(feature=feature, supported="no", seen_in=seen_in, remedy=remedy, checks=checks)


def check_support(facts: Facts) -> None:
    """Raises `JobError` with a problem for each unsupported feature that the facts ask for."""
    problems = [
        Problem(path=path, message=message, remedy=row.remedy)
        for row in MATRIX
        for check in row.checks
        for path, message in check(facts)
    ]
    if problems:
        raise JobError(problems)


def support_matrix() -> str:
    """The matrix as a page of the docs in Markdown."""
    lines = [
        "# Support matrix\n",
        "<!-- Made by `make docs` from taper_rollout.job.support_matrix; do not edit. -->\n",
        "A job is checked against this table when it starts. Anything unsupported is an error that\n"
        "names the field and says what is supported.\n",
        "| feature | supported | checked in | otherwise |\n|---|---|---|---|",
    ]
    lines += [f"| {row.feature} | {row.supported} | {row.seen_in} | {row.remedy} |" for row in MATRIX]
    return "\n".join(lines) + "\n"


def _job_path(facts: Facts, field: str, setting: str) -> str:
    """The path in the user's terms: a field of the job, or a setting of VeRL."""
    return setting if facts.is_raw else field


def _verl_path(facts: Facts, setting: str) -> str:
    return setting if facts.is_raw else f"spec.verl[{setting!r}]"


def _model_path(facts: Facts) -> str:
    return _job_path(facts, "spec.model.path", "actor_rollout_ref.model.path")


def _degrees_path(facts: Facts, index: int) -> str:
    return _job_path(facts, f"spec.rollout.degrees[{index}]", f"{_REPLICA}.custom.degrees[{index}]")


def _footprint_path(facts: Facts) -> str:
    return _job_path(facts, "spec.rollout.footprint", f"{_REPLICA}.tensor_model_parallel_size")


def _architecture(facts: Facts) -> Iterator[Finding]:
    for name in facts.model.get("architectures") or ["(none)"]:
        if name not in ARCHITECTURES:
            yield _model_path(facts), f"architecture {name} is not supported"


def _present(*names: str) -> Check:
    """Finds entries of config.json that are present and not empty, false, 0 or 1."""

    def findings(facts: Facts) -> Iterator[Finding]:
        for name in names:
            value = facts.model.get(name)
            if value is True or (value and value != 1):
                yield _model_path(facts), f"config.json has {name}"

    return findings


_OFF: tuple[Any, ...] = (None, False, 0, "", [], {})


def _settings(*names: str, allowed: tuple[Any, ...] = _OFF) -> Check:
    """Finds settings of VeRL with another value than those that are allowed."""

    def findings(facts: Facts) -> Iterator[Finding]:
        for name in names:
            value = facts.setting(name)
            if value not in allowed:
                yield _verl_path(facts, name), f"{value!r} is not supported"

    return findings


def _one(name: str) -> Check:
    return _settings(name, allowed=(None, 0, 1))


def _kv_heads(facts: Facts) -> int | None:
    heads = facts.model.get("num_key_value_heads")
    return heads if heads is not None else facts.model.get("num_attention_heads")


def _footprint_over_heads(facts: Facts) -> Iterator[Finding]:
    heads = _kv_heads(facts)
    if heads is not None and facts.footprint > heads:
        yield _footprint_path(facts), f"{facts.footprint} ranks are more than the model's {heads} KV heads"


def _degree_divides(facts: Facts) -> Iterator[Finding]:
    """Degrees above the number of KV heads are found by `_footprint_over_heads`."""
    counts = {
        "KV heads": _kv_heads(facts),
        "attention heads": facts.model.get("num_attention_heads"),
        "intermediate channels": facts.model.get("intermediate_size"),
    }
    for index, degree in enumerate(facts.degrees):
        uneven = [
            f"{count} ({what})"
            for what, count in counts.items()
            if count is not None and count >= degree and count % degree
        ]
        if uneven:
            yield _degrees_path(facts, index), f"{degree} does not divide {', '.join(uneven)}"


def _nodes(facts: Facts) -> Iterator[Finding]:
    if facts.footprint > facts.ranks_per_node:
        message = f"{facts.footprint} ranks do not fit on a node with {facts.ranks_per_node}"
        yield _footprint_path(facts), message


def _trainer_mode(facts: Facts) -> Iterator[Finding]:
    mode = facts.setting("trainer.v1.trainer_mode")
    if mode not in (None, "sync"):
        yield _verl_path(facts, "trainer.v1.trainer_mode"), f"{mode!r} is not synchronous"
    if facts.setting("trainer.use_v1") is False:
        yield _verl_path(facts, "trainer.use_v1"), "false is not supported"


_ENGINE = f"{_REPLICA}.engine_kwargs.sglang"
_SPECULATION = (f"{_ENGINE}.speculative_algorithm", f"{_ENGINE}.speculative_draft_model_path")
_GRAMMAR = tuple(f"{_ENGINE}.{name}" for name in ("grammar_backend", "reasoning_parser", "tool_call_parser"))
_PAGE_SIZE = f"{_ENGINE}.page_size"


def _other_engine_arguments(facts: Facts) -> Iterator[Finding]:
    arguments = facts.setting(_ENGINE)
    for name in arguments if isinstance(arguments, Mapping) else ():
        setting = f"{_ENGINE}.{name}"
        if setting not in (*_SPECULATION, *_GRAMMAR, _PAGE_SIZE):
            yield _verl_path(facts, setting), "Taper sets SGLang's arguments itself and would ignore it"


def _versions(facts: Facts) -> Iterator[Finding]:
    for package, version in VERSIONS.items():
        installed = facts.versions.get(package)
        if installed != version:
            found = f"version {installed} is installed" if installed else "is not installed"
            yield f"package {package}", found


MATRIX: tuple[Row, ...] = (
    Row(
        feature="model",
        supported="dense " + ", ".join(ARCHITECTURES),
        seen_in=MODEL,
        remedy=f"use a model of {' or '.join(ARCHITECTURES)}",
        checks=(_architecture,),
    ),
    Row(feature="dtypes", supported="float32, bfloat16, float16"),
    Row(feature="algorithms", supported="GRPO, PPO and DAPO with VeRL's synchronous trainer"),
    Row(
        feature="layouts",
        supported="uniform, with footprints of 1, 2, 4 and 8 ranks",
        seen_in=JOB,
        remedy="use a footprint of 1, 2, 4 or 8, and ascending degrees of these that end with the footprint",
    ),
    Row(feature="KV cache in a switch", supported="migrated or recomputed"),
    _no(
        "mixture of experts",
        MODEL,
        "use a dense model",
        _present("num_experts", "num_local_experts", "n_routed_experts", "moe_intermediate_size"),
    ),
    _no(
        "multimodal models",
        MODEL,
        "use a text model",
        _present("vision_config", "audio_config", "text_config", "image_token_id"),
    ),
    _no("sliding-window attention", MODEL, "use a model with full attention", _present("use_sliding_window")),
    _no(
        "quantised weights or KV (fp8, int4, ...)",
        f"{MODEL}; {SETTINGS}",
        "use unquantised weights",
        _present("quantization_config"),
        _settings(f"{_REPLICA}.quantization", "actor_rollout_ref.actor.fsdp_config.qat.enable"),
    ),
    _no(
        "LoRA",
        SETTINGS,
        "train all weights: remove the setting or set it to 0",
        _settings(
            *(f"actor_rollout_ref.model.{name}" for name in ("lora_rank", "lora.rank", "lora_adapter_path"))
        ),
    ),
    Row(
        feature="more ranks than KV heads",
        supported="no: footprint ≤ KV heads",
        seen_in=f"{JOB}; {MODEL}",
        remedy="use a smaller footprint",
        checks=(_footprint_over_heads,),
    ),
    Row(
        feature="TP degrees",
        supported="those that divide the model's heads and intermediate size",
        seen_in=f"{JOB}; {MODEL}",
        remedy="remove this degree",
        checks=(_degree_divides,),
    ),
    _no("footprint across nodes", JOB, "use a footprint of at most spec.training.ranks", _nodes),
    _no("pipeline parallelism", SETTINGS, "set it to 1", _one(f"{_REPLICA}.pipeline_model_parallel_size")),
    _no("expert parallelism", SETTINGS, "set it to 1", _one(f"{_REPLICA}.expert_parallel_size")),
    _no(
        "data parallelism within a replica",
        SETTINGS,
        "set it to 1; more ranks give more replicas",
        _one(f"{_REPLICA}.data_parallel_size"),
    ),
    _no(
        "disaggregated prefill and decode",
        SETTINGS,
        "turn it off",
        _settings(f"{_REPLICA}.disaggregation.enabled"),
    ),
    _no(
        "asynchronous trainers",
        SETTINGS,
        "use sync; asynchronous trainers leave no idle ranks to gain from",
        _trainer_mode,
    ),
    _no(
        "speculative decoding",
        SETTINGS,
        "turn it off",
        _settings(*_SPECULATION, allowed=(None, "none")),
        _settings("actor_rollout_ref.model.mtp.enable_rollout"),
    ),
    _no("grammar-constrained decoding", SETTINGS, "remove it", _settings(*_GRAMMAR, allowed=(None, "none"))),
    Row(
        feature="KV page size",
        supported="1",
        seen_in=SETTINGS,
        remedy="set it to 1",
        checks=(_settings(_PAGE_SIZE, allowed=(None, 1)),),
    ),
    Row(
        feature="other SGLang arguments",
        supported="no, set by Taper",
        seen_in=SETTINGS,
        remedy="remove it; spec.rollout has the settings that can be changed",
        checks=(_other_engine_arguments,),
    ),
    Row(
        feature="versions",
        supported=", ".join(f"{package} {version}" for package, version in VERSIONS.items()),
        seen_in=INSTALLED,
        remedy="install " + " and ".join(f"{package}=={version}" for package, version in VERSIONS.items()),
        checks=(_versions,),
    ),
)

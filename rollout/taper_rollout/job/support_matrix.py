"""The support matrix: one table that the docs show and that every job is checked against at its start.

`check_support` is pure. It takes plain facts, so that it runs before SGLang, VeRL or torch are imported,
and names the field that asks for something unsupported.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping

from taper_api import JobError, Problem
from taper_api.job.rollout_spec import DEGREES
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


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A row of the matrix.

    seen_in: where the feature is read from
    findings: yields what is not supported; None if the row is not checked
    """

    feature: str
    supported: str
    seen_in: str = ""
    remedy: str = ""
    findings: Callable[[Facts], Iterator[Finding]] | None = None


def check_support(facts: Facts) -> None:
    """Raises `JobError` with a problem for each unsupported feature that the facts ask for."""
    problems = [
        Problem(path=path, message=message, remedy=row.remedy)
        for row in MATRIX
        if row.findings is not None
        for path, message in row.findings(facts)
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


def _present(*names: str) -> Callable[[Facts], Iterator[Finding]]:
    """Finds entries of config.json that are present and not empty, false, 0 or 1."""

    def findings(facts: Facts) -> Iterator[Finding]:
        for name in names:
            value = facts.model.get(name)
            if value is True or (value and value != 1):
                yield _model_path(facts), f"config.json has {name}"

    return findings


def _quantization(facts: Facts) -> Iterator[Finding]:
    yield from _present("quantization_config")(facts)
    yield from _set(f"{_REPLICA}.quantization", "actor_rollout_ref.actor.fsdp_config.qat.enable")(facts)


def _set(*names: str) -> Callable[[Facts], Iterator[Finding]]:
    """Finds settings of VeRL that are on: true, a number above 0, or text."""

    def findings(facts: Facts) -> Iterator[Finding]:
        for name in names:
            value = facts.setting(name)
            if value:
                yield _verl_path(facts, name), f"{value!r} is not supported"

    return findings


def _above_one(name: str) -> Callable[[Facts], Iterator[Finding]]:
    def findings(facts: Facts) -> Iterator[Finding]:
        value = facts.setting(name)
        if value is not None and value > 1:
            yield _verl_path(facts, name), f"{value} is not supported"

    return findings


def _kv_heads(facts: Facts) -> int | None:
    heads = facts.model.get("num_key_value_heads")
    return heads if heads is not None else facts.model.get("num_attention_heads")


def _footprint_over_heads(facts: Facts) -> Iterator[Finding]:
    heads = _kv_heads(facts)
    if heads is not None and facts.footprint > heads:
        yield _footprint_path(facts), f"{facts.footprint} ranks are more than the model's {heads} KV heads"


def _layouts(facts: Facts) -> Iterator[Finding]:
    """`RLHFJob` has this rule too. Here it also covers users of VeRL's own command."""
    if facts.footprint not in DEGREES:
        yield _footprint_path(facts), f"{facts.footprint} is not one of {', '.join(map(str, DEGREES))}"
    elif facts.degrees[-1] != facts.footprint:
        message = f"the last degree is {facts.degrees[-1]}, but the footprint is {facts.footprint}"
        yield _degrees_path(facts, len(facts.degrees) - 1), message
    for index, degree in enumerate(facts.degrees):
        if degree not in DEGREES or (index and degree <= facts.degrees[index - 1]):
            yield (
                _degrees_path(facts, index),
                f"{list(facts.degrees)} are not ascending powers of two up to {DEGREES[-1]}",
            )


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
_SPECULATION = ("speculative_algorithm", "speculative_draft_model_path")
_GRAMMAR = ("grammar_backend", "reasoning_parser", "tool_call_parser")


def _engine_arguments(*names: str) -> Callable[[Facts], Iterator[Finding]]:
    def findings(facts: Facts) -> Iterator[Finding]:
        for name in names:
            value = facts.setting(f"{_ENGINE}.{name}")
            if value not in (None, "none"):
                yield _verl_path(facts, f"{_ENGINE}.{name}"), f"{value!r} is not supported"

    return findings


def _speculation(facts: Facts) -> Iterator[Finding]:
    yield from _engine_arguments(*_SPECULATION)(facts)
    yield from _set("actor_rollout_ref.model.mtp.enable_rollout")(facts)


def _page_size(facts: Facts) -> Iterator[Finding]:
    value = facts.setting(f"{_ENGINE}.page_size")
    if value not in (None, 1):
        yield _verl_path(facts, f"{_ENGINE}.page_size"), f"{value!r} is not supported"


def _other_engine_arguments(facts: Facts) -> Iterator[Finding]:
    arguments = facts.setting(_ENGINE)
    for name in arguments if isinstance(arguments, Mapping) else ():
        if name not in (*_SPECULATION, *_GRAMMAR, "page_size"):
            yield (
                _verl_path(facts, f"{_ENGINE}.{name}"),
                "Taper sets SGLang's arguments itself and would ignore it",
            )


def _versions(facts: Facts) -> Iterator[Finding]:
    for package, version in VERSIONS.items():
        installed = facts.versions.get(package)
        if installed != version:
            yield (
                f"package {package}",
                f"version {installed} is installed" if installed else "is not installed",
            )


MATRIX: tuple[Row, ...] = (
    Row(
        feature="model",
        supported="dense " + ", ".join(ARCHITECTURES),
        seen_in=MODEL,
        remedy=f"use a model of {' or '.join(ARCHITECTURES)}",
        findings=_architecture,
    ),
    Row(feature="dtypes", supported="float32, bfloat16, float16"),
    Row(feature="algorithms", supported="GRPO, PPO and DAPO with VeRL's synchronous trainer"),
    Row(
        feature="layouts",
        supported="uniform, with footprints of 1, 2, 4 and 8 ranks",
        seen_in=JOB,
        remedy="use a footprint of 1, 2, 4 or 8, and ascending degrees of these that end with the footprint",
        findings=_layouts,
    ),
    Row(feature="KV cache in a switch", supported="migrated or recomputed"),
    Row(
        feature="mixture of experts",
        supported="no",
        seen_in=MODEL,
        remedy="use a dense model",
        findings=_present("num_experts", "num_local_experts", "n_routed_experts", "moe_intermediate_size"),
    ),
    Row(
        feature="multimodal models",
        supported="no",
        seen_in=MODEL,
        remedy="use a text model",
        findings=_present("vision_config", "audio_config", "text_config", "image_token_id"),
    ),
    Row(
        feature="sliding-window attention",
        supported="no",
        seen_in=MODEL,
        remedy="use a model with full attention",
        findings=_present("use_sliding_window"),
    ),
    Row(
        feature="quantised weights or KV (fp8, int4, ...)",
        supported="no",
        seen_in=f"{MODEL}; {SETTINGS}",
        remedy="use unquantised weights",
        findings=_quantization,
    ),
    Row(
        feature="LoRA",
        supported="no",
        seen_in=SETTINGS,
        remedy="train all weights: remove the setting or set it to 0",
        findings=_set(
            "actor_rollout_ref.model.lora_rank",
            "actor_rollout_ref.model.lora.rank",
            "actor_rollout_ref.model.lora_adapter_path",
        ),
    ),
    Row(
        feature="more ranks than KV heads",
        supported="no: footprint ≤ KV heads",
        seen_in=f"{JOB}; {MODEL}",
        remedy="use a smaller footprint",
        findings=_footprint_over_heads,
    ),
    Row(
        feature="TP degrees",
        supported="those that divide the model's heads and intermediate size",
        seen_in=f"{JOB}; {MODEL}",
        remedy="remove this degree",
        findings=_degree_divides,
    ),
    Row(
        feature="footprint across nodes",
        supported="no",
        seen_in=JOB,
        remedy="use a footprint of at most spec.training.ranks",
        findings=_nodes,
    ),
    Row(
        feature="pipeline parallelism",
        supported="no",
        seen_in=SETTINGS,
        remedy="set it to 1",
        findings=_above_one(f"{_REPLICA}.pipeline_model_parallel_size"),
    ),
    Row(
        feature="expert parallelism",
        supported="no",
        seen_in=SETTINGS,
        remedy="set it to 1",
        findings=_above_one(f"{_REPLICA}.expert_parallel_size"),
    ),
    Row(
        feature="data parallelism within a replica",
        supported="no",
        seen_in=SETTINGS,
        remedy="set it to 1; more ranks give more replicas",
        findings=_above_one(f"{_REPLICA}.data_parallel_size"),
    ),
    Row(
        feature="disaggregated prefill and decode",
        supported="no",
        seen_in=SETTINGS,
        remedy="turn it off",
        findings=_set(f"{_REPLICA}.disaggregation.enabled"),
    ),
    Row(
        feature="asynchronous trainers",
        supported="no",
        seen_in=SETTINGS,
        remedy="use sync; asynchronous trainers leave no idle ranks to gain from",
        findings=_trainer_mode,
    ),
    Row(
        feature="speculative decoding",
        supported="no",
        seen_in=SETTINGS,
        remedy="turn it off",
        findings=_speculation,
    ),
    Row(
        feature="grammar-constrained decoding",
        supported="no",
        seen_in=SETTINGS,
        remedy="remove it",
        findings=_engine_arguments(*_GRAMMAR),
    ),
    Row(
        feature="KV page size",
        supported="1",
        seen_in=SETTINGS,
        remedy="set it to 1",
        findings=_page_size,
    ),
    Row(
        feature="other SGLang arguments",
        supported="no, set by Taper",
        seen_in=SETTINGS,
        remedy="remove it; spec.rollout has the settings that can be changed",
        findings=_other_engine_arguments,
    ),
    Row(
        feature="versions",
        supported=", ".join(f"{package} {version}" for package, version in VERSIONS.items()),
        seen_in=INSTALLED,
        remedy="install " + " and ".join(f"{package}=={version}" for package, version in VERSIONS.items()),
        findings=_versions,
    ),
)

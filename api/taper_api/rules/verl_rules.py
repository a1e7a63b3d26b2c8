"""What `spec.verl` may not hold: settings that a field of the job stands for.

What CEL cannot check, the operator does after it has taken the job (`Validated=False`): names that are not
plain, and names below a setting that a field stands for. A server does not see keys that its schema does not
name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from pydantic import JsonValue

from taper_api.base.job_error import Problem
from taper_api.job.spec import RLHFJobSpec
from taper_api.rules.rule import CelRule, Rule, escaped

# VeRL settings that a field of the job stands for: two places for one choice would contradict each other.
SETTLED_BY_FIELD = {
    "actor_rollout_ref.rollout.name": "spec.rollout (it is always taper)",
    "actor_rollout_ref.rollout.custom": "spec.rollout",
    "actor_rollout_ref.rollout.tensor_model_parallel_size": "spec.rollout.footprint",
    "actor_rollout_ref.rollout.n": "spec.rollout.samplesPerPrompt",
    "actor_rollout_ref.rollout.response_length": "spec.rollout.responseTokens",
    "actor_rollout_ref.model.path": "spec.model.path",
    "algorithm.adv_estimator": "spec.algorithm.name",
    "data.train_files": "spec.data.train",
    "data.val_files": "spec.data.validation",
    "data.train_batch_size": "spec.training.batchPrompts",
    "data.max_prompt_length": "spec.data.maxPromptTokens",
    "data.max_response_length": "spec.rollout.responseTokens",
    "trainer.n_gpus_per_node": "spec.training.ranks",
    "trainer.nnodes": "spec.training.nodes",
    "trainer.total_training_steps": "spec.training.steps",
    "trainer.default_local_dir": "spec.training.checkpoints.directory",
    "trainer.resume_mode": "spec.training.checkpoints.resume",
}

# Mappings of VeRL's that hold such settings.
SETTLED_GROUPS = frozenset(
    ".".join(parts[:length])
    for parts in (name.split(".") for name in SETTLED_BY_FIELD)
    for length in range(1, len(parts))
)


def _verl(spec: RLHFJobSpec) -> Iterator[Problem]:
    for name in spec.verl:
        if not re.fullmatch(r"[A-Za-z_]\w*(\.\w+)*", name):
            yield Problem(
                path=f"spec.verl[{name!r}]",
                message="is not a plain dotted name",
                remedy="write it without Hydra's + and ~; settings are added where they are missing",
            )
    settled = {name: field for name, full in _dotted(spec.verl) if (field := _field_for(full)) is not None}
    for name, field in settled.items():
        yield Problem(path=f"spec.verl[{name!r}]", message=f"is set by {field}", remedy="remove it here")
    for name in spec.verl:
        if name not in settled and name in SETTLED_GROUPS:
            yield Problem(
                path=f"spec.verl[{name!r}]",
                message="holds settings that fields of the job stand for",
                remedy=f"give each setting in it by its full name, {name}.<setting>",
            )


def _field_for(setting: str) -> str | None:
    """The field that stands for a setting of VeRL; None where there is none."""
    for settled, field in SETTLED_BY_FIELD.items():
        if setting == settled or setting.startswith(f"{settled}."):
            return field
    return None


def _dotted(settings: dict[str, JsonValue]) -> Iterator[tuple[str, str]]:
    """Each setting's name as written, and the full name of every leaf under it."""
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from ((name, f"{name}.{inner}") for _, inner in _dotted(value))
        else:
            yield name, name


_REASONS = {name: f"is set by {field}: remove it here" for name, field in SETTLED_BY_FIELD.items()} | {
    name: "holds settings that fields of the job stand for: give each setting in it by its full name, "
    f"{name}.<setting>"
    for name in sorted(SETTLED_GROUPS)
}
VERL = Rule(
    text="`spec.verl` holds plain dotted names, and none that a field of the job stands for (listed below) "
    "nor a mapping around one.",
    check=_verl,
    cel=tuple(
        CelRule(at="spec.verl", rule=f"!has(self.{escaped(name)})", message=f"spec.verl['{name}'] {reason}")
        for name, reason in _REASONS.items()
    ),
)

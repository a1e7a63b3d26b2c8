"""`spec.rollout` on its way through VeRL (0.9.1): written and read back by one model.

A rollout field for which VeRL has a setting of its own travels in that setting (`VERL_SETTINGS`). All others
travel as they are in `actor_rollout_ref.rollout.custom`: a job that launches VeRL itself sets them there,
with the same names, defaults and errors as in an RLHFJob. Without the block, every default holds.

Invariant (asserted by `tests/rollout/verl/test_custom_block.py`): what is read is what was written.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from omegaconf import OmegaConf
from pydantic import Field, ValidationError

from taper_api import JobError, Problem
from taper_api.base.violations import problems_of
from taper_api.job.rollout_spec import NonEmpty, RolloutSpec
from taper_api.rules.rollout_rules import rollout_contradictions

ROLLOUT = "actor_rollout_ref.rollout"
CUSTOM = f"{ROLLOUT}.custom"
# Path of a rollout field: VeRL's setting for it, below `actor_rollout_ref.rollout`.
VERL_SETTINGS = {
    "footprint": "tensor_model_parallel_size",
    "samplesPerPrompt": "n",
    "responseTokens": "response_length",
    "sampling.temperature": "temperature",
    "sampling.topP": "top_p",
    "sampling.topK": "top_k",
}
# Names that the block had before it took those of `spec.rollout`; they still work.
OLD_NAMES = {
    "kv": "switch.kv",
    "switch_timeout_seconds": "switch.timeoutSeconds",
    "seed": "sampling.seed",
}


class CustomBlock(RolloutSpec):
    """The rollout block of a run, and what only a run has."""

    run: NonEmpty | None = Field(
        default=None, description="Name of the actor that collects the run's events; `taper run` sets it."
    )
    output: NonEmpty | None = Field(
        default=None, description="The run's output directory; default: `outputs` in the working directory."
    )
    host: NonEmpty | None = Field(
        default=None,
        description="Address of the replicas' status servers; `node` is the node's own. Default: loopback.",
    )
    profiles: NonEmpty | None = Field(
        default=None, description="Directory of measured profiles. Default: the user's cache directory."
    )


def written_block(rollout: RolloutSpec, *, run: str | None, output: str) -> dict[str, Any]:
    """The content of `rollout.custom` for a job: every field that VeRL has no setting for."""
    block: dict[str, Any] = rollout.model_dump(mode="json", exclude_none=True)
    for path in VERL_SETTINGS:
        _pop(block, path)
    return block | {"run": run, "output": output}


def read_block(config: Any) -> CustomBlock:
    """The rollout block out of VeRL's `RolloutConfig`.

    Raises `JobError` that names VeRL's settings, a problem for each thing that is wrong.
    """
    content = _plain(config.custom)
    for old, path in OLD_NAMES.items():
        if content.get(old) is not None:
            _put(content, path, content[old])
        content.pop(old, None)
    misplaced = list(_misplaced(content))
    if misplaced:
        raise JobError(misplaced)
    for path, setting in VERL_SETTINGS.items():
        _put(content, path, getattr(config, setting))
    try:
        block = CustomBlock.model_validate(content)
    except ValidationError as error:
        problems = problems_of(error, CustomBlock)
    else:
        problems = rollout_contradictions(block)
        if not problems:
            return block
    raise JobError([_at_verls_path(problem) for problem in problems])


def _plain(custom: Any) -> dict[str, Any]:
    """A copy of the block as plain mappings and lists, down to the level of `VERL_SETTINGS`."""
    if OmegaConf.is_config(custom):
        custom = OmegaConf.to_container(custom, resolve=True)
    if not isinstance(custom, Mapping | None):
        raise JobError.at(CUSTOM, f"{custom!r} is not a mapping", "write {name: value}")
    return {
        name: dict(value) if isinstance(value, Mapping) else value for name, value in (custom or {}).items()
    }


def _misplaced(content: dict[str, Any]) -> Iterator[Problem]:
    """Fields that are in the block, but that VeRL has a setting for."""
    for path, setting in VERL_SETTINGS.items():
        if _pop(content, path) is not None:
            yield Problem(
                path=f"{CUSTOM}.{path}", message=f"is set by {ROLLOUT}.{setting}", remedy="remove it here"
            )


def _at_verls_path(problem: Problem) -> Problem:
    """The same problem, at the path where a user of VeRL sets the field."""
    field = problem.path.removeprefix("spec.rollout.")
    setting = VERL_SETTINGS.get(field)
    path = f"{CUSTOM}.{field}" if setting is None else f"{ROLLOUT}.{setting}"
    remedy = problem.remedy
    for name, verl_name in VERL_SETTINGS.items():
        remedy = remedy.replace(f"spec.rollout.{name}", f"rollout.{verl_name}")
    remedy = remedy.replace("spec.rollout.", "rollout.custom.")
    return Problem(path=path, message=problem.message, remedy=remedy)


def _put(content: dict[str, Any], path: str, value: Any) -> None:
    """Set a field of the block, unless its parent is no mapping: then the block's model refuses that."""
    parent, _, name = path.rpartition(".")
    if parent and content.get(parent) is None:
        content[parent] = {}
    block = content[parent] if parent else content
    if isinstance(block, dict):
        block[name] = value


def _pop(content: dict[str, Any], path: str) -> Any:
    parent, _, name = path.rpartition(".")
    block = content.get(parent) if parent else content
    return block.pop(name, None) if isinstance(block, dict) else None

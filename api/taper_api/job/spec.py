"""`spec` of an RLHFJob: what is trained, on what, how. The rollout and the pods have files of their own."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, JsonValue, WithJsonSchema

from taper_api.base.block import Block, keyed_by
from taper_api.base.nesting import is_deeper
from taper_api.base.violations import unfit
from taper_api.job.environment_variable import EnvironmentVariable
from taper_api.job.image import Image
from taper_api.job.kueue import Kueue
from taper_api.job.rollout_spec import MAX_INTEGER, NonEmpty, Positive, RolloutSpec
from taper_api.job.volumes import Volumes
from taper_api.pods.node_pools import CPUS_PER_RANK, NodePools

DATA_SUFFIXES = (".parquet", ".jsonl")
REWARD_PATTERN = r"^[^:]+$|^.*\.py:[A-Za-z_][A-Za-z0-9_]*$"
OPERATOR_NAME = "taper.dev/operator"
# Of raw settings, which may be any JSON: VeRL's own configuration has seven.
MAX_SETTING_LEVELS = 32


def _data_file(path: str) -> str:
    if not path.endswith(DATA_SUFFIXES):
        raise unfit(f"{path!r} is neither parquet nor jsonl", "name a .parquet or .jsonl file")
    return path


def _reward_function(name: str) -> str:
    if re.fullmatch(REWARD_PATTERN, name) is None:
        raise unfit(
            f"{name!r} is neither a built-in reward nor file.py:function",
            "write it like exact-match or rewards/mine.py:score",
        )
    return name


RewardFunction = Annotated[
    str,
    Field(min_length=1, max_length=1024),
    AfterValidator(_reward_function),
    WithJsonSchema({"type": "string", "maxLength": 1024, "pattern": REWARD_PATTERN}),
]
DataFile = Annotated[
    str,
    Field(max_length=1024),
    AfterValidator(_data_file),
    WithJsonSchema({"type": "string", "maxLength": 1024, "pattern": r"\.(parquet|jsonl)$"}),
]
DataFiles = Annotated[tuple[DataFile, ...], Field(strict=False, max_length=64)]


def _nested_within_bound(settings: object) -> object:
    if is_deeper(settings, MAX_SETTING_LEVELS):
        raise unfit("is nested too deep", f"use at most {MAX_SETTING_LEVELS} levels of mappings and lists")
    return settings


# Values of raw settings: free, so that only their number and depth have a bound. The depth is checked first,
# before anything recurses over them; no schema of a CRD can say it.
Settings = Annotated[dict[NonEmpty, JsonValue], Field(max_length=128), BeforeValidator(_nested_within_bound)]


class ModelSpec(Block):
    """The model that is trained."""

    path: NonEmpty = Field(
        description="A directory in Hugging Face form, relative to the job file, or a Hugging Face id."
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto",
        description="Number format of the rollout's weights and KV cache; `auto`: the checkpoint's.",
    )
    trust_remote_code: bool = Field(default=False, description="Run code that comes with the model.")


class DataSpec(Block):
    """Prompts and their reference answers."""

    train: Annotated[DataFiles, Field(min_length=1)] = Field(
        description="Files of training prompts, .parquet or .jsonl, relative to the job file."
    )
    validation: DataFiles = Field(default=(), description="Files of validation prompts, in the same form.")
    prompt_field: NonEmpty = Field(
        default="prompt",
        description="Field of a row that holds the prompt: text, or a list of chat messages.",
    )
    answer_field: NonEmpty = Field(
        default="answer", description="Field of a row that holds the reference answer."
    )
    max_prompt_tokens: Positive = Field(default=512, description="Longest prompt allowed, in tokens.")
    overlong: Literal["error", "filter", "truncate"] = Field(
        default="error",
        description="What to do with a longer prompt: refuse the job, leave the prompt out, or cut it.",
    )
    shuffle: bool = Field(default=True, description="Draw the prompts in random order.")
    seed: int = Field(default=1, ge=0, lt=2**31, description="Seed of that order.")


class RewardSpec(Block):
    """How a response is scored."""

    function: RewardFunction = Field(
        description="Name of a built-in reward, or `file.py:function` with the file relative to the job file."
    )
    settings: Settings = Field(
        default={}, description="Keyword arguments of the reward function, nested at most 32 levels deep."
    )

    @property
    def file(self) -> tuple[Path, str] | None:
        """File and function of a reward of the user's own; None for a built-in one."""
        file, colon, function = self.function.rpartition(":")
        return (Path(file), function) if colon else None


class AlgorithmSpec(Block):
    """How the policy learns from its scored responses."""

    name: Literal["grpo", "ppo", "dapo"] = Field(default="grpo", description="The algorithm.")
    learning_rate: float = Field(default=1e-6, gt=0, description="Learning rate of the actor.")
    kl_coefficient: float = Field(
        default=0.0, ge=0, description="Weight of the KL distance from the first model; 0 turns it off."
    )
    clip_ratio: float = Field(default=0.2, gt=0, lt=1, description="Clipping range of the policy ratio.")
    entropy_coefficient: float = Field(default=0.0, ge=0, description="Weight of the entropy bonus.")
    mini_batch_prompts: Positive | None = Field(
        default=None, description="Prompts in one optimiser step. Default: the whole batch."
    )
    epochs_per_step: Positive = Field(default=1, description="Passes over a batch of responses.")


class ValidationSpec(Block):
    """When the model is scored on the validation prompts."""

    every_steps: Positive | None = Field(default=None, description="Validate after every so many steps.")
    before: bool = Field(default=False, description="Validate before the first step too.")


class CheckpointsSpec(Block):
    """Where and when the training state is saved."""

    directory: NonEmpty | None = Field(
        default=None,
        description="Their directory, relative to the job file. Default: `checkpoints` in the output.",
    )
    every_steps: Positive | None = Field(
        default=None, description="Save after every so many steps. Default: never."
    )
    keep: Positive | None = Field(
        default=None,
        description="Number of newest checkpoints kept, those of earlier attempts included. Default: all.",
    )
    resume: Literal["auto", "never"] = Field(
        default="auto",
        description="`auto` continues from the newest checkpoint, `never` starts from the beginning.",
    )


class TrainingSpec(Block):
    """How long and on how many ranks."""

    steps: Positive = Field(description="Number of training steps.")
    batch_prompts: Positive = Field(description="Prompts in one step.")
    seed: int = Field(default=1, ge=0, lt=2**31, description="Seed of the trainer.")
    ranks: Positive = Field(
        description="Trainer ranks on each node: its GPUs, or CPU processes. A multiple of the footprint."
    )
    nodes: Positive = Field(default=1, description="Number of nodes.")
    validation: ValidationSpec = ValidationSpec()
    checkpoints: CheckpointsSpec = CheckpointsSpec()


class RLHFJobSpec(Block):
    """What is trained, on what, how and where."""

    model: ModelSpec
    data: DataSpec
    reward: RewardSpec
    algorithm: AlgorithmSpec = AlgorithmSpec()
    training: TrainingSpec
    rollout: RolloutSpec
    verl: Settings = Field(
        default={},
        description="VeRL settings by dotted name, for what Taper has no field for. They override "
        "Taper's choices. Settings that a field of the job stands for are refused here. "
        "Nested at most 32 levels deep.",
    )
    image: Image = Field(
        default=Image(), description="The image of the job's pods; read by the operator only."
    )
    env: Annotated[tuple[EnvironmentVariable, ...], Field(strict=False, max_length=64)] = Field(
        default=(),
        json_schema_extra=keyed_by("name"),
        description="Environment variables of the job's pods; read by the operator only.",
    )
    volumes: Volumes = Field(
        default=Volumes(), description="Volumes of the job's pods; read by the operator only."
    )
    node_pools: NodePools = Field(
        default=NodePools(), description="The job's pods on a cluster; read by the operator only."
    )
    kueue: Kueue | None = Field(
        default=None, description="The queue that the job waits in; read by the operator only. Default: none."
    )
    submission_mode: Literal["HTTPMode", "K8sJobMode"] = Field(
        default="HTTPMode",
        description="Who submits the job to Ray: KubeRay itself, or a Kubernetes Job. Read by the operator "
        "only, as are the fields below.",
    )
    backoff_limit: int = Field(
        default=3,
        ge=0,
        le=100,
        description="Number of failed attempts that are retried; one more failure and the job has failed. "
        "Attempts that the cluster ended (preemption, lost nodes) do not count.",
    )
    active_deadline_seconds: Positive | None = Field(
        default=None,
        description="Longest time that the job may be active, over all attempts; time in which it is "
        "suspended does not count. Default: no limit.",
    )
    ttl_seconds_after_finished: Annotated[int, Field(ge=0, le=MAX_INTEGER)] | None = Field(
        default=None, description="Seconds after its end at which the job is deleted. Default: never."
    )
    suspend: bool = Field(
        default=False,
        description="Run no attempt. Set on a running job, it ends the attempt, which does not count.",
    )
    managed_by: Annotated[
        str,
        Field(
            max_length=63,
            pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$",
        ),
    ] = Field(
        default=OPERATOR_NAME,
        description="The controller that reconciles the job; Taper's operator ignores jobs of any other. "
        "Cannot be changed.",
    )

    @property
    def gpus_per_node(self) -> int:
        """GPUs of a pod of the GPU pool; 0 where the ranks are CPU processes."""
        asked = self.node_pools.gpu.gpus_per_node
        return self.training.ranks if asked is None else asked

    @property
    def gpu_pool_cpu(self) -> str:
        """CPUs of a pod of the GPU pool, as a Kubernetes quantity."""
        return self.node_pools.gpu.cpu or str(CPUS_PER_RANK * self.training.ranks)

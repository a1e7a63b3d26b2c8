"""From an RLHFJob to a VeRL configuration (VeRL 0.9.1), and the run of a job.

`verl_overrides` is pure: it yields every setting that a job, a host and an output
directory decide. VeRL's own defaults hold for the rest; the job's raw `verl:` settings come
last and win. CPU settings are written only for a host without a GPU.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from taper_api import JobError, RLHFJob, check_files
from taper_rollout.events import Event
from taper_rollout.job.host import HostResources
from taper_rollout.job.hydra import override
from taper_rollout.job.requirements import gather_facts
from taper_rollout.job.support_matrix import check_support
from taper_rollout.job_replica import check_job_profile
from taper_rollout.verl.custom_block import read_block, written_block
from taper_rollout.verl.inputs.preparation import prepare, train_file, validation_file
from taper_rollout.verl.inputs.rewards import GUARD_NAME, GUARD_PATH

# One bucket of a weight transfer; on CPU it lies in /dev/shm, and the largest tensor must fit in it.
CPU_BUCKET_MEBIBYTES = 512
GPU_BUCKET_MEBIBYTES = 2048
GPU_MICRO_BATCH_TOKENS = 16384
CPU_MICRO_BATCH_TOKENS = 2048
DAPO_CLIP_RATIO_HIGH = 0.28

Setting = tuple[str, Any]


def verl_overrides(job: RLHFJob, *, host: HostResources, output: Path, run: str | None = None) -> list[str]:
    """Hydra overrides for VeRL's `ppo_trainer`. `run` names the run's reporter actor, if there is one.

    Raises `ValueError` for a raw `verl:` value that Hydra cannot read.
    """
    settings: list[Setting] = [
        *_data(job, output),
        *_model(job, host),
        *_actor(job, host),
        *_algorithm(job),
        *_rollout(job, host, output, run),
        *_reward(job, host, run),
        *_trainer(job, host, output),
    ]
    if host.num_gpus == 0:
        settings += _cpu()
    settings += [(f"++{name}", value) for name, value in job.spec.verl.items()]
    return [override(name, value) for name, value in settings]


def _data(job: RLHFJob, output: Path) -> Iterator[Setting]:
    data, training = job.spec.data, job.spec.training
    yield "data.train_files", str(train_file(output))
    yield "data.val_files", str(validation_file(job, output))
    yield "data.train_batch_size", training.batch_prompts
    yield "data.max_prompt_length", data.max_prompt_tokens
    yield "data.max_response_length", job.spec.rollout.response_tokens
    yield "data.filter_overlong_prompts", data.overlong == "filter"
    yield "data.truncation", "left" if data.overlong == "truncate" else "error"
    yield "data.shuffle", data.shuffle
    yield "data.seed", data.seed
    yield "data.trust_remote_code", job.spec.model.trust_remote_code
    # Prompts are small: a loader process would cost an import of VeRL and gain nothing.
    yield "data.dataloader_num_workers", 0


def _model(job: RLHFJob, host: HostResources) -> Iterator[Setting]:
    yield "actor_rollout_ref.model.path", job.spec.model.path
    yield "actor_rollout_ref.model.trust_remote_code", job.spec.model.trust_remote_code
    yield "actor_rollout_ref.model.use_remove_padding", packs_samples(host)
    if not host.flash_attention:
        yield "+actor_rollout_ref.model.override_config.attn_implementation", "sdpa"


def _actor(job: RLHFJob, host: HostResources) -> Iterator[Setting]:
    algorithm, training = job.spec.algorithm, job.spec.training
    actor = "actor_rollout_ref.actor"
    yield f"{actor}.strategy", "fsdp2"
    yield f"{actor}.fsdp_config.strategy", "fsdp2"
    yield f"{actor}.fsdp_config.seed", training.seed
    yield f"{actor}.data_loader_seed", training.seed
    yield f"{actor}.optim.lr", algorithm.learning_rate
    yield f"{actor}.ppo_mini_batch_size", algorithm.mini_batch_prompts or training.batch_prompts
    yield f"{actor}.ppo_epochs", algorithm.epochs_per_step
    yield f"{actor}.clip_ratio", algorithm.clip_ratio
    yield f"{actor}.clip_ratio_low", algorithm.clip_ratio
    high = (
        max(algorithm.clip_ratio, DAPO_CLIP_RATIO_HIGH) if algorithm.name == "dapo" else algorithm.clip_ratio
    )
    yield f"{actor}.clip_ratio_high", high
    yield f"{actor}.entropy_coeff", algorithm.entropy_coefficient
    yield f"{actor}.use_dynamic_bsz", True
    yield f"{actor}.ppo_max_token_len_per_gpu", micro_batch_tokens(job, host)


def packs_samples(host: HostResources) -> bool:
    """Whether the trainer packs samples end to end instead of padding them to the longest.

    On CPU torch's own attention does it, by a mask over the packed row; on a GPU that mask
    would cost more memory than it saves, so there it takes flash attention.
    """
    return host.flash_attention or host.num_gpus == 0


def micro_batch_tokens(job: RLHFJob, host: HostResources) -> int:
    """Most tokens in one micro-batch of the trainer; one full-length sample always fits.

    On CPU each micro-batch gathers the weights again, and a packed row's attention mask grows
    with its square: a few samples of a long tail, or many short ones, are worth a row.
    """
    sample_tokens = job.spec.data.max_prompt_tokens + job.spec.rollout.response_tokens
    most = CPU_MICRO_BATCH_TOKENS if host.num_gpus == 0 else GPU_MICRO_BATCH_TOKENS
    return max(most, sample_tokens)


def _algorithm(job: RLHFJob) -> Iterator[Setting]:
    algorithm = job.spec.algorithm
    yield "algorithm.adv_estimator", "gae" if algorithm.name == "ppo" else "grpo"
    if algorithm.name == "ppo":
        yield "algorithm.use_kl_in_reward", algorithm.kl_coefficient > 0
        yield "algorithm.kl_ctrl.kl_coef", algorithm.kl_coefficient
        yield "critic.model.path", job.spec.model.path
        yield "critic.model.trust_remote_code", job.spec.model.trust_remote_code
        yield "critic.strategy", "fsdp2"
    else:
        yield "actor_rollout_ref.actor.use_kl_loss", algorithm.kl_coefficient > 0
        yield "actor_rollout_ref.actor.kl_loss_coef", algorithm.kl_coefficient
    if algorithm.name == "dapo":
        yield "algorithm.filter_groups.enable", True
        yield "algorithm.filter_groups.metric", "reward"


def _rollout(job: RLHFJob, host: HostResources, output: Path, run: str | None) -> Iterator[Setting]:
    rollout, training = job.spec.rollout, job.spec.training
    prefix = "actor_rollout_ref.rollout"
    num_samples = training.batch_prompts * rollout.samples_per_prompt
    yield f"{prefix}.name", "taper"
    yield f"{prefix}.tensor_model_parallel_size", rollout.footprint
    yield f"{prefix}.n", rollout.samples_per_prompt
    yield f"{prefix}.temperature", rollout.sampling.temperature
    yield f"{prefix}.top_p", rollout.sampling.top_p
    yield f"{prefix}.top_k", rollout.sampling.top_k
    yield f"+{prefix}.custom", written_block(rollout, run=run, output=str(output))
    yield f"{prefix}.dtype", job.spec.model.dtype
    yield f"{prefix}.seed", training.seed
    # Calls that Ray admits to a replica at once: all requests must reach it, or it cannot see its batch.
    yield f"{prefix}.max_num_seqs", max(256, num_samples)
    yield f"{prefix}.agent.num_workers", 1 if host.num_gpus == 0 else min(8, training.batch_prompts)
    bucket = CPU_BUCKET_MEBIBYTES if host.num_gpus == 0 else GPU_BUCKET_MEBIBYTES
    yield f"{prefix}.checkpoint_engine.update_weights_bucket_megabytes", bucket


def _reward(job: RLHFJob, host: HostResources, run: str | None) -> Iterator[Setting]:
    reward = job.spec.reward
    yield "reward.num_workers", 1 if host.num_gpus == 0 else 4
    yield "reward.custom_reward_function.path", GUARD_PATH
    yield "reward.custom_reward_function.name", GUARD_NAME
    arguments = {"function": reward.function, "settings": dict(reward.settings), "run": run}
    yield "+reward.custom_reward_function.reward_kwargs", arguments


def _trainer(job: RLHFJob, host: HostResources, output: Path) -> Iterator[Setting]:
    training = job.spec.training
    checkpoints, validation = training.checkpoints, training.validation
    yield "trainer.project_name", "taper"
    yield "trainer.experiment_name", job.metadata.name
    yield "trainer.logger", ["console"]
    yield "trainer.nnodes", training.nodes
    yield "trainer.n_gpus_per_node", training.ranks
    yield "trainer.total_training_steps", training.steps
    yield "trainer.total_epochs", training.steps  # an epoch has at least one step: the steps end the run
    yield "trainer.val_before_train", validation.before
    yield "trainer.test_freq", validation.every_steps or -1
    yield "trainer.save_freq", checkpoints.every_steps or -1
    yield "trainer.resume_mode", "auto" if checkpoints.resume == "auto" else "disable"
    yield "trainer.default_local_dir", checkpoints.directory or str(output / "checkpoints")
    yield "trainer.max_actor_ckpt_to_keep", checkpoints.keep
    yield "trainer.max_critic_ckpt_to_keep", checkpoints.keep


def _cpu() -> Iterator[Setting]:
    """Settings without which VeRL does not train on a host that has no GPU, or is slow there."""
    single = {"param_dtype": "fp32", "reduce_dtype": "fp32", "buffer_dtype": "fp32"}
    for engine in ("actor_rollout_ref.actor.fsdp_config", "actor_rollout_ref.ref.fsdp_config", "critic.fsdp"):
        yield f"{engine}.dtype", "float32"
        yield f"{engine}.use_torch_compile", False
        yield f"+{engine}.mixed_precision", single
        # A copy a rank, gradients summed once a step: sharding over gloo took 1.6 times the CPU time of an
        # update and twice that of a forward pass (102M parameters, 2 ranks), for 0.9 GB less a rank.
        yield f"{engine}.fsdp_size", 1
        yield f"{engine}.use_no_sync_for_gradient_accumulation", True
    yield "actor_rollout_ref.actor.use_torch_compile", False
    yield "actor_rollout_ref.model.enable_gradient_checkpointing", False
    yield "critic.model.enable_gradient_checkpointing", False
    yield "critic.model.use_remove_padding", False
    yield "+critic.model.override_config.attn_implementation", "sdpa"
    yield "transfer_queue.backend.SimpleStorage.num_data_storage_units", 1
    yield "trainer.device", "cpu"


def compose(overrides: Sequence[str]) -> DictConfig:
    """VeRL's `ppo_trainer` configuration with the overrides applied.

    Raises `ValueError` with Hydra's words for an override that VeRL's configuration does not know.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.errors import HydraException

    verl = importlib.util.find_spec("verl")  # its directory alone: importing VeRL takes seconds
    if verl is None or not verl.submodule_search_locations:
        raise ModuleNotFoundError("VeRL is not installed; install taper with the extra [rollout]")
    directory = Path(verl.submodule_search_locations[0], "trainer", "config")
    try:
        with initialize_config_dir(config_dir=str(directory), version_base=None):
            return hydra_compose(config_name="ppo_trainer", overrides=list(overrides))
    except HydraException as error:
        raise ValueError(f"VeRL's configuration refuses an override: {error}") from error


def verl_config(job: RLHFJob, *, host: HostResources, output: Path, run: str | None = None) -> DictConfig:
    """What a job becomes for VeRL: for `--dry-run`, for the checks and for the trainer.

    Raises `JobError` at `spec.verl` for what VeRL refuses: by then, all else of the job is known to be good.
    """
    try:
        config = compose(verl_overrides(job, host=host, output=output, run=run))
        OmegaConf.to_container(config, resolve=True)  # raises for an interpolation that leads nowhere
        read_block(config.actor_rollout_ref.rollout)
    except ValueError as error:
        message = " ".join(str(error).split())
        raise JobError.at("spec.verl", message) from error
    return config


def check_job(job: RLHFJob, output: Path) -> DictConfig:
    """The job's configuration on this machine. Raises `JobError` for what is missing or not supported."""
    check_files(job)
    host = HostResources.local()
    # First, as composing VeRL's configuration takes half a second.
    check_job_profile(job, device="" if os.environ.get("RAY_ADDRESS") else host.device)
    config = verl_config(job, host=host, output=output)
    settings: Any = OmegaConf.to_container(config, resolve=True)
    check_support(gather_facts(settings))
    return config


def run_job(
    job: RLHFJob,
    output: Path,
    on_events: Callable[[list[Event]], None],
    *,
    verbose: bool = False,
) -> None:
    """Train a job that `check_job` has passed. `on_events` gets events in the caller's thread, at least 1 Hz.

    Attaches to the Ray cluster that `RAY_ADDRESS` names, or starts a local one, and waits for its GPUs.
    Raises `JobError` for what is wrong with the job, `TrainingFailed` with the first real cause
    of a failure, and whatever `on_events` raises. Ray, its actors and all their processes
    are gone when it returns or raises, also on Ctrl-C.
    """
    from taper_rollout.verl.session import Session

    prepare(job, output)
    with Session.open(job, output, verbose=verbose, on_events=on_events) as session:
        config = verl_config(job, host=session.host, output=output, run=session.run_name)
        session.train(config, on_events)

"""The Ray actor that runs VeRL's own task runner (VeRL 0.9.1: `trainer/main_ppo.py`).

`main_ppo` cannot be called from the driver: it starts Ray itself and blocks. This actor does what `main`
does after Ray is up, so that the driver can collect events meanwhile.
"""

from __future__ import annotations

from typing import Any

import ray

from taper_rollout.verl.checkpoints.resume import keep_newest, resume
from taper_rollout.verl.trainer_hooks import run_of

REPORT_SECONDS = 30.0


class Runner:
    """VeRL's trainer for one job."""

    def run(self, config: Any) -> None:
        """Train. `config` is the composed `ppo_trainer` configuration. Raises what VeRL raises."""
        from verl.trainer.main_ppo import TaskRunnerV1, auto_set_device, validate_config
        from verl.trainer.ppo.utils import need_critic, need_reference_policy

        auto_set_device(config)
        has_critic = need_critic(config)
        validate_config(
            config=config, use_reference_policy=need_reference_policy(config), use_critic=has_critic
        )
        _resume(config, has_critic=has_critic)
        # The class without Ray's wrapper, as this process is the actor already.
        TaskRunnerV1.__ray_metadata__.modified_class().run(config)


def _resume(config: Any, *, has_critic: bool) -> None:
    """Select the checkpoint to resume from, and report it to the run."""
    found = resume(config, has_critic=has_critic)
    if found is None:
        return
    keep_newest(config, has_critic=has_critic)
    run = run_of(config)
    if run is None or (found.directory is None and not found.passed_over):
        return
    ray.get(ray.get_actor(run).post.remote(found), timeout=REPORT_SECONDS)

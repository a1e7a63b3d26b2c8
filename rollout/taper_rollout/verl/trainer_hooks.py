"""Changes to VeRL's trainer process, for jobs with Taper's rollout (VeRL 0.9.1).

- `ReplayBuffer` polls for finished samples every 2 s, which is most of a small step and hides the gain
  of a switch. A custom sampler, VeRL's own way to change this, would turn off DAPO's filtering, so only
  the interval is shortened.
- `Tracking` has a closed list of loggers: one is added that posts to the run's reporter and metrics hosts.
- Validation and the training step after it generate without a pause. Replicas are notified at both ends,
  so that the two do not count as one generation stage.
"""

from __future__ import annotations

import functools
import logging
import numbers
from typing import Any

import ray

from taper_rollout.events import Step
from taper_rollout.verl.metrics.host import post_to_all

POLL_SECONDS = 0.1
REPORT_SECONDS = 30.0
STAGE_SECONDS = 60.0

_logger = logging.getLogger(__name__)


def install() -> None:
    """Apply the changes, once per process."""
    from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer
    from verl.trainer.ppo.v1.trainer_base import PPOTrainer
    from verl.utils.tracking import Tracking

    if getattr(ReplayBuffer, "_taper_polls", False):
        return
    ReplayBuffer._wait_for_next_poll = _short_wait(ReplayBuffer._wait_for_next_poll)
    Tracking.__init__ = _reporting_init(Tracking.__init__)
    PPOTrainer.on_validate_begin = _setting_stage(PPOTrainer.on_validate_begin, steps_ahead=0)
    PPOTrainer.on_validate_end = _setting_stage(PPOTrainer.on_validate_end, steps_ahead=1)
    ReplayBuffer._taper_polls = True


def _setting_stage(original: Any, *, steps_ahead: int) -> Any:
    """A validation belongs to the step whose weights it evaluates, what is generated after it to the next."""

    @functools.wraps(original)
    def hook(self: Any) -> None:
        original(self)
        replicas = self.llm_server_manager.get_replicas()
        step = self.global_steps + steps_ahead
        ray.get([replica.server_handle.set_stage.remote(step) for replica in replicas], timeout=STAGE_SECONDS)

    return hook


def _short_wait(original: Any) -> Any:
    @functools.wraps(original)
    def wait(self: Any, partition_id: str, last_debug_time: float) -> float:
        self.poll_interval = min(self.poll_interval, POLL_SECONDS)
        result: float = original(self, partition_id, last_debug_time)
        return result

    return wait


def _reporting_init(original: Any) -> Any:
    @functools.wraps(original)
    def init(
        self: Any,
        project_name: str,
        experiment_name: str,
        default_backend: Any = "console",
        config: Any = None,
    ) -> None:
        original(self, project_name, experiment_name, default_backend, config)
        run = run_of(config or {})
        if run is not None:
            self.logger["taper"] = StepReport(run)

    return init


def run_of(config: dict[str, Any]) -> str | None:
    """The name of the run's reporter actor in a VeRL configuration; None without one."""
    custom = config.get("actor_rollout_ref", {}).get("rollout", {}).get("custom") or {}
    run: str | None = custom.get("run")
    return run


class StepReport:
    """A VeRL logger that posts each step's metrics to the run's reporter and metrics hosts."""

    def __init__(self, run: str) -> None:
        self._run = run
        self._reporter = ray.get_actor(run)

    def log(self, data: dict[str, Any], step: int) -> None:
        """Post the numbers in `data`, unless they are those of a validation before the first step."""
        metrics = {name: float(value) for name, value in data.items() if isinstance(value, numbers.Real)}
        if "training/global_step" not in metrics:
            return
        event = Step(step=step, metrics=metrics)
        post_to_all(self._run, event)
        posted = self._reporter.post.remote(event)
        try:
            # Waits, so that the post of the last step is not lost when this process ends.
            ray.get(posted, timeout=REPORT_SECONDS)
        except ray.exceptions.RayError:
            _logger.exception("the metrics of step %d could not be posted", step)

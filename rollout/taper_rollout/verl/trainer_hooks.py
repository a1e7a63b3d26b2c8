"""What Taper changes in VeRL's trainer process, for jobs whose rollout is ours (VeRL 0.9.1).

- `ReplayBuffer` waits 2 s between two looks at the finished samples, which hides what a
  switch gains and is most of a small step. VeRL's own remedy, a custom sampler, would
  switch DAPO's filtering off, so the waiting alone is shortened.
- `Tracking` knows a closed list of loggers: one is added that posts to the run's reporter and its metrics.
- Validation generates with the replicas awake, and training goes on without a pause: replicas are
  told of both ends, or the two would count as one generation stage.
"""

from __future__ import annotations

import functools
import logging
import numbers
from typing import Any

import ray

from taper_rollout.verl.metrics.host import post_to_all

POLL_SECONDS = 0.1
REPORT_SECONDS = 30.0
STAGE_SECONDS = 60.0

_logger = logging.getLogger(__name__)


def install() -> None:
    """Apply all of it, once a process."""
    from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer
    from verl.trainer.ppo.v1.trainer_base import PPOTrainer
    from verl.utils.tracking import Tracking

    if getattr(ReplayBuffer, "_taper_polls", False):
        return
    ReplayBuffer._wait_for_next_poll = _short_wait(ReplayBuffer._wait_for_next_poll)
    Tracking.__init__ = _reporting_init(Tracking.__init__)
    PPOTrainer.on_validate_begin = _telling_stage(PPOTrainer.on_validate_begin, steps_ahead=0)
    PPOTrainer.on_validate_end = _telling_stage(PPOTrainer.on_validate_end, steps_ahead=1)
    ReplayBuffer._taper_polls = True


def _telling_stage(original: Any, *, steps_ahead: int) -> Any:
    """A validation counts to the step whose weights it judges; what is generated after it, to the next."""

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
    """The name of the run's reporter actor in a VeRL configuration, None where nobody listens."""
    custom = config.get("actor_rollout_ref", {}).get("rollout", {}).get("custom") or {}
    run: str | None = custom.get("run")
    return run


class StepReport:
    """A VeRL logger that posts each step's numbers to the run's reporter, and to its metrics hosts."""

    def __init__(self, run: str) -> None:
        self._run = run
        self._reporter = ray.get_actor(run)

    def log(self, data: dict[str, Any], step: int) -> None:
        """Post what is a number in `data`: as the step's, or, before the first step, as a validation's."""
        metrics = {name: float(value) for name, value in data.items() if isinstance(value, numbers.Real)}
        kind = "Step" if "training/global_step" in metrics else "Validation"
        event = {"kind": kind, "step": step, "metrics": metrics}
        post_to_all(self._run, event)
        posted = self._reporter.post.remote(event)
        try:
            # Waited for: the last step's post must not be lost with the process that made it.
            ray.get(posted, timeout=REPORT_SECONDS)
        except ray.exceptions.RayError:
            _logger.exception("the report of step %d did not reach the run", step)

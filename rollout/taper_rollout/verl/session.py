"""Runs a job on Ray: starts or joins Ray, trains while collecting events, and cleans up."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import shutil
import signal
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import psutil
import ray
from omegaconf import DictConfig

from taper_api import JobError, RLHFJob
from taper_rollout.events import Event, Failure, Waiting
from taper_rollout.job.child_processes import Descendants
from taper_rollout.job.host import HostResources
from taper_rollout.job.training_failed import TrainingFailed
from taper_rollout.report.inbox import Inbox
from taper_rollout.verl.ray_capacity import LOCAL_SECONDS, RayCapacity, wait_for_capacity
from taper_rollout.verl.replica_name import METRICS_PREFIX, PREFIX
from taper_rollout.verl.runner import Runner

SLICE_SECONDS = 1.0
CLOSE_SECONDS = 20.0
REPORTER_SECONDS = 60.0
RAY_DIRECTORY = "taper-ray-"
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")

# The variables that VeRL's `get_ppo_ray_runtime_env` and `run_ppo` set for every process.
VERL_ENVIRONMENT = {
    "TOKENIZERS_PARALLELISM": "true",
    "NCCL_DEBUG": "WARN",
    "VLLM_LOGGING_LEVEL": "WARN",
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "true",
    "VLLM_DISABLE_COMPILE_CACHE": "1",
    "HCCL_HOST_SOCKET_PORT_RANGE": "auto",
    "HCCL_NPU_SOCKET_PORT_RANGE": "auto",
    "HSA_NO_SCRATCH_RECLAIM": "1",
    "TRANSFER_QUEUE_ENABLE": "1",
    "VERL_FULL_DETERMINISM": "0",
    "VLLM_BATCH_INVARIANT": "0",
    "VERL_RL_INSIGHT_ENABLE": "0",
}
CPU_ENVIRONMENT = {"VERL_PLATFORM": "cpu", "VERL_ENGINE_DEVICE": "cuda", "OMP_NUM_THREADS": "1"}
QUIET_ENVIRONMENT = {"VERL_LOGGING_LEVEL": "WARN", "HYDRA_FULL_ERROR": "1"}
# Ray reads these in the driver when it starts. By default it runs its workers, and so the ranks, at a
# niceness of 15, behind everything else on the machine.
RAY_ENVIRONMENT = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",
}


OnEvents = Callable[[list[Event]], None]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A connection to Ray, with the run's reporter. Use `open` as a context."""

    host: HostResources
    run_name: str
    reporter: Any
    environment: dict[str, str]

    @classmethod
    @contextlib.contextmanager
    def open(
        cls, job: RLHFJob, output: Path, *, verbose: bool, on_events: OnEvents = lambda events: None
    ) -> Iterator[Self]:
        """Join Ray at `RAY_ADDRESS`, or start it on this machine, and wait for the job's resources.

        Raises `TrainingFailed` if they do not become available.
        """
        address = os.environ.get("RAY_ADDRESS")
        ray_directory = None if address else _ray_directory()
        descendants = Descendants()
        try:
            host = _connect(address, ray_directory, job, on_events, verbose=verbose)
            run_name = f"taper_run_{uuid.uuid4().hex}"
            reporter = ray.remote(Inbox).options(name=run_name, num_cpus=0).remote()
            environment = _environment(host, ray_directory, verbose=verbose)
            yield cls(host=host, run_name=run_name, reporter=reporter, environment=environment)
        finally:
            _close(descendants, ray_directory, output / "logs")

    def train(self, config: DictConfig, on_events: OnEvents) -> None:
        """Run VeRL's trainer to its end. Raises `TrainingFailed`, `JobError`, or what `on_events` raises."""
        try:
            self._train(config, on_events)
        except BaseException:
            self._drain_last_events(on_events)
            raise

    def _train(self, config: DictConfig, on_events: OnEvents) -> None:
        # VeRL's processes are all started by this one and inherit its environment.
        options = {"num_cpus": 1, "runtime_env": {"env_vars": self.environment}}
        runner = ray.remote(Runner).options(**options).remote()
        result = runner.run.remote(config)
        done: list[Any] = []
        while not done:
            done, _ = ray.wait([result], timeout=SLICE_SECONDS)
            self._pass_on_events(on_events)
        try:
            ray.get(result)
        except ray.exceptions.RayError as error:
            self._pass_on_events(on_events)  # a failure that a component reported itself comes first
            innermost = _innermost(error)
            if isinstance(innermost, JobError):
                raise innermost from error
            raise TrainingFailed(first_cause(error)) from error
        self._pass_on_events(on_events)

    def _drain_last_events(self, on_events: OnEvents) -> None:
        """Pass on the events that were on their way, and those that replicas post when they are closed."""
        with _uninterrupted(), contextlib.suppress(Exception):
            _close_replicas()
            events = ray.get(self.reporter.drain.remote(), timeout=CLOSE_SECONDS)
            on_events([event for event in events if not isinstance(event, Failure)])

    def _pass_on_events(self, on_events: OnEvents) -> None:
        """Pass on new events. Raises `TrainingFailed` for a reported failure."""
        try:
            events = ray.get(self.reporter.drain.remote(), timeout=REPORTER_SECONDS)
        except ray.exceptions.RayError as error:
            raise TrainingFailed(
                f"the actor that collects the run's events is gone: {first_cause(error)}"
            ) from error
        failures = [event.message for event in events if isinstance(event, Failure)]
        on_events([event for event in events if not isinstance(event, Failure)])
        if failures:
            raise TrainingFailed(failures[0])


def _ray_directory() -> Path:
    """Create a directory for Ray's sockets and logs, and remove those of killed runs.

    Its path is short, because socket paths are limited.
    """
    temporary = Path(tempfile.gettempdir())
    for left in temporary.glob(f"{RAY_DIRECTORY}*-*"):
        owner = left.name.removeprefix(RAY_DIRECTORY).partition("-")[0]
        if owner.isdigit() and not psutil.pid_exists(int(owner)):
            shutil.rmtree(left, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{RAY_DIRECTORY}{os.getpid()}-"))


def _innermost(error: BaseException) -> BaseException:
    while isinstance(error, ray.exceptions.RayTaskError) and isinstance(error.cause, BaseException):
        error = error.cause
    return error


def first_cause(error: BaseException) -> str:
    """The innermost error of a chain of Ray errors, as one line of text."""
    error = _innermost(error)
    lines = [line.strip() for line in _COLOUR.sub("", str(error)).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    if not isinstance(error, ray.exceptions.RayError):
        return f"{type(error).__name__}: {' '.join(lines)}"
    # If Ray quotes a traceback, its last line is the error. Ray's own messages are used whole.
    quotes = isinstance(error, ray.exceptions.RayTaskError) or "error raised in its creation task" in lines[0]
    return lines[-1] if quotes else " ".join(lines)


def _connect(
    address: str | None, ray_directory: Path | None, job: RLHFJob, on_events: OnEvents, *, verbose: bool
) -> HostResources:
    """Join Ray at `address`, or start it on this machine, and wait for the job's resources.

    Returns the resources that decide between GPU and CPU settings. Those of a cluster are known only
    afterwards.
    """
    capacity = RayCapacity(ranks=job.spec.training.ranks, nodes=job.spec.training.nodes)
    quiet: dict[str, Any] = {"log_to_driver": verbose, "logging_level": "INFO" if verbose else "WARNING"}
    if address:
        ray.init(address=address, **quiet)
        return _wait(capacity, job.spec.node_pools.startup_timeout_seconds, on_events)
    host = HostResources.local()
    for name, value in RAY_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    ray.init(
        num_gpus=host.num_gpus or capacity.num_gpus,
        # Enough for VeRL's placement, which counts and does not pin.
        num_cpus=max(host.num_cpus, capacity.num_cpus(has_real_gpus=host.num_gpus > 0)),
        include_dashboard=False,
        _temp_dir=str(ray_directory),
        **quiet,
    )
    _wait(capacity, LOCAL_SECONDS, on_events)
    return host


def _wait(capacity: RayCapacity, seconds: float, on_events: OnEvents) -> HostResources:
    return wait_for_capacity(
        capacity,
        seconds=seconds,
        report=lambda text: on_events([Waiting(text=text)]),
    )


def _environment(host: HostResources, ray_directory: Path | None, *, verbose: bool) -> dict[str, str]:
    """The environment of VeRL's processes."""
    environment = VERL_ENVIRONMENT | ({} if verbose else QUIET_ENVIRONMENT)
    if host.num_gpus == 0:
        environment |= CPU_ENVIRONMENT
    if ray_directory is not None:
        temporary = ray_directory / "tmp"  # VeRL and SGLang leave files in it; it is removed with Ray's
        temporary.mkdir()
        environment["TMPDIR"] = str(temporary)
    return environment


def _close(descendants: Descendants, ray_directory: Path | None, logs: Path) -> None:
    """Close the replicas, stop Ray, keep its logs, and end what outlived it. All waits have deadlines."""
    with _uninterrupted():
        with contextlib.suppress(Exception):  # must not hide the error of the run
            _close_replicas()
        descendants.look()
        ray.shutdown()
        descendants.end()
        if ray_directory is not None:
            _keep_logs(ray_directory, logs)
            shutil.rmtree(ray_directory, ignore_errors=True)


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ignore signals, so that a second Ctrl-C does not stop the clean-up. Only the main thread can."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _close_replicas() -> None:
    """Close the replicas, then the metrics hosts, which count the replicas' last events.

    Actors that hang end with Ray.
    """
    if not ray.is_initialized():
        return
    for prefix in (PREFIX, METRICS_PREFIX):
        names = [name for name in ray.util.list_named_actors() if name.startswith(prefix)]
        closing = [ray.get_actor(name).close.remote() for name in names]
        if closing:
            ray.wait(closing, num_returns=len(closing), timeout=CLOSE_SECONDS)


def _keep_logs(ray_directory: Path, logs: Path) -> None:
    """Copy the logs of VeRL's processes and of Ray itself."""
    session = ray_directory / "session_latest" / "logs"
    with contextlib.suppress(OSError):  # a full disk must not hide the error of the run
        logs.mkdir(parents=True, exist_ok=True)
        for pattern in ("worker-*", "raylet.*", "gcs_server.*"):
            for file in sorted(session.glob(pattern)):
                if file.stat().st_size:
                    shutil.copyfile(file, logs / file.name)

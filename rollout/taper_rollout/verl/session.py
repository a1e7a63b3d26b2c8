"""A job's time on Ray: start or attach, train while listening, and leave nothing behind."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import psutil
import ray
from omegaconf import DictConfig

from taper_api import JobError, RLHFJob
from taper_rollout.job.child_processes import Descendants
from taper_rollout.job.host import HostResources
from taper_rollout.job.training_failed import TrainingFailed
from taper_rollout.verl.ray_capacity import LOCAL_SECONDS, RayCapacity, look_at_ray, wait_for_capacity
from taper_rollout.verl.replica_name import METRICS_PREFIX, PREFIX
from taper_rollout.verl.reporter import Reporter
from taper_rollout.verl.runner import Runner

SLICE_SECONDS = 1.0
CLOSE_SECONDS = 20.0
REPORTER_SECONDS = 60.0
RAY_DIRECTORY = "taper-ray-"
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")

# What VeRL's `get_ppo_ray_runtime_env` and `run_ppo` set for every process, without importing VeRL here.
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
# Ray reads these when it starts, in the driver. It would run its workers, and so our ranks, at a
# niceness of 15: whatever else the machine does would come first.
RAY_ENVIRONMENT = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",
}


OnEvents = Callable[[list[dict[str, Any]]], None]


class Session:
    """Ray with the run's reporter on it. Use `open` as a context."""

    def __init__(
        self, *, host: HostResources, run_name: str, reporter: Any, environment: dict[str, str]
    ) -> None:
        self.host = host
        self.run_name = run_name
        self._reporter = reporter
        self._environment = environment

    @classmethod
    @contextlib.contextmanager
    def open(
        cls, job: RLHFJob, output: Path, *, verbose: bool, on_events: OnEvents = lambda events: None
    ) -> Iterator[Self]:
        """Attach to `RAY_ADDRESS`, or start Ray here, and wait for the job's GPUs.

        Raises `TrainingFailed` if Ray cannot serve the job.
        """
        address = os.environ.get("RAY_ADDRESS")
        ray_directory = None if address else _ray_directory()
        descendants = Descendants()
        try:
            host = _connect(address, ray_directory, job, on_events, verbose=verbose)
            run_name = f"taper_run_{uuid.uuid4().hex}"
            reporter = ray.remote(Reporter).options(name=run_name, num_cpus=0).remote()
            environment = _environment(host, ray_directory, verbose=verbose)
            yield cls(host=host, run_name=run_name, reporter=reporter, environment=environment)
        finally:
            _close(descendants, ray_directory, output / "logs")

    def train(self, config: DictConfig, on_events: OnEvents) -> None:
        """Run VeRL's trainer to its end. Raises `TrainingFailed`, `JobError`, or what `on_events` raises."""
        try:
            self._train(config, on_events)
        except BaseException:
            self._hear_last(on_events)
            raise

    def _train(self, config: DictConfig, on_events: OnEvents) -> None:
        # All of VeRL's processes are started below this one and inherit its environment.
        options = {"num_cpus": 1, "runtime_env": {"env_vars": self._environment}}
        runner = ray.remote(Runner).options(**options).remote()
        result = runner.run.remote(config)
        done: list[Any] = []
        while not done:
            done, _ = ray.wait([result], timeout=SLICE_SECONDS)
            self._listen(on_events)
        try:
            ray.get(result)
        except ray.exceptions.RayError as error:
            self._listen(on_events)  # what the failed part itself said comes first
            innermost = _innermost(error)
            if isinstance(innermost, JobError):
                raise innermost from error
            raise TrainingFailed(first_cause(error)) from error
        self._listen(on_events)

    def _hear_last(self, on_events: OnEvents) -> None:
        """What was on its way when the run broke off, and what replicas tell when they are closed."""
        with _uninterrupted(), contextlib.suppress(Exception):
            _close_replicas()
            events = ray.get(self._reporter.drain.remote(), timeout=CLOSE_SECONDS)
            on_events([event for event in events if event["kind"] != "Failure"])

    def _listen(self, on_events: OnEvents) -> None:
        """Hand new events on. Raises `TrainingFailed` for a failure that somebody reported."""
        try:
            events = ray.get(self._reporter.drain.remote(), timeout=REPORTER_SECONDS)
        except ray.exceptions.RayError as error:
            raise TrainingFailed(f"the run's reporter is gone: {first_cause(error)}") from error
        failures = [event["message"] for event in events if event["kind"] == "Failure"]
        on_events([event for event in events if event["kind"] != "Failure"])
        if failures:
            raise TrainingFailed(failures[0])


def _ray_directory() -> Path:
    """A directory for Ray's sockets and logs, short enough for a socket's name; those of killed runs go."""
    place = Path(tempfile.gettempdir())
    for left in place.glob(f"{RAY_DIRECTORY}*-*"):
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
    # Ray quotes a traceback: its last line is the error. Of its own notes all is of use.
    quotes = isinstance(error, ray.exceptions.RayTaskError) or "error raised in its creation task" in lines[0]
    return lines[-1] if quotes else " ".join(lines)


def _connect(
    address: str | None, ray_directory: Path | None, job: RLHFJob, on_events: OnEvents, *, verbose: bool
) -> HostResources:
    """Join Ray at `address`, or start it here, and wait for room.

    Returns the resources that decide between GPU and CPU settings: of a cluster they are known only then.
    """
    room = RayCapacity(ranks=job.spec.training.ranks, nodes=job.spec.training.nodes)
    quiet: dict[str, Any] = {"log_to_driver": verbose, "logging_level": "INFO" if verbose else "WARNING"}
    if address:
        ray.init(address=address, **quiet)
        return _wait(room, job.spec.node_pools.startup_timeout_seconds, on_events)
    host = HostResources.local()
    for name, value in RAY_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    ray.init(
        num_gpus=host.num_gpus or room.num_gpus,
        # Enough for VeRL's placement, which counts and does not pin.
        num_cpus=max(host.num_cpus, room.num_cpus(has_real_gpus=host.num_gpus > 0)),
        include_dashboard=False,
        _temp_dir=str(ray_directory),
        **quiet,
    )
    _wait(room, LOCAL_SECONDS, on_events)
    return host


def _wait(room: RayCapacity, seconds: float, on_events: OnEvents) -> HostResources:
    return wait_for_capacity(
        room,
        seconds=seconds,
        tell=lambda text: on_events([{"kind": "Waiting", "text": text}]),
        look=look_at_ray,
        clock=time.monotonic,
        sleep=time.sleep,
    )


def _environment(host: HostResources, ray_directory: Path | None, *, verbose: bool) -> dict[str, str]:
    """The environment of VeRL's processes."""
    environment = VERL_ENVIRONMENT | ({} if verbose else QUIET_ENVIRONMENT)
    if host.num_gpus == 0:
        environment |= CPU_ENVIRONMENT
    if ray_directory is not None:
        temporary = ray_directory / "tmp"  # VeRL and SGLang leave files in it; all of it goes with Ray's own
        temporary.mkdir()
        environment["TMPDIR"] = str(temporary)
    return environment


def _close(descendants: Descendants, ray_directory: Path | None, logs: Path) -> None:
    """Close the replicas, end Ray, keep its logs, and end what outlived it. Its waits have deadlines."""
    with _uninterrupted():
        with contextlib.suppress(Exception):  # the run is over; its own error must not be hidden by ours
            _close_replicas()
        descendants.look()
        ray.shutdown()
        descendants.end()
        if ray_directory is not None:
            _keep_logs(ray_directory, logs)
            shutil.rmtree(ray_directory, ignore_errors=True)


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """A second Ctrl-C must not stop what the first one began. Signals are the main thread's alone."""
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
    """Ask replicas to end their ranks and clear what they share, then metrics hosts to stop listening.

    Actors that hang are ended with Ray.
    """
    if not ray.is_initialized():
        return
    for prefix in (PREFIX, METRICS_PREFIX):  # what replicas tell last is still counted
        names = [name for name in ray.util.list_named_actors() if name.startswith(prefix)]
        closing = [ray.get_actor(name).close.remote() for name in names]
        if closing:
            ray.wait(closing, num_returns=len(closing), timeout=CLOSE_SECONDS)


def _keep_logs(ray_directory: Path, logs: Path) -> None:
    """Copy what VeRL's processes and Ray itself said, so that a failure can be looked into."""
    session = ray_directory / "session_latest" / "logs"
    with contextlib.suppress(OSError):  # a full disk must not hide why the run ended
        logs.mkdir(parents=True, exist_ok=True)
        for pattern in ("worker-*", "raylet.*", "gcs_server.*"):
            for file in sorted(session.glob(pattern)):
                if file.stat().st_size:
                    shutil.copyfile(file, logs / file.name)

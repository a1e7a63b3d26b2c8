"""Latency, memory and idle writes of the operator with 500 jobs of three pods, on the tests' control plane.

A real etcd, API server, controllers and scheduler, a fake KubeRay, and kwok, which plays the
kubelets. The operator is a process with the rights of its own ServiceAccount. All share this machine, so
times are those of a loaded cluster. Needs the programs that `make cluster-tools` builds.

- paced: jobs are applied at an even rate; seconds from each apply to its RayJob, as a watch sees it;
- quiet: once all run, the operator's write requests, from the API server's audit log;
- burst: all are deleted and as many applied at once; seconds until the last RayJob exists;
- size: the operator's largest resident memory during all of it.

    python benchmarks/operator_load.py [--jobs 500] [--rate 5]

Prints a table with the limits, writes JSON, and exits with 1 if a limit is missed. Takes about 10 minutes.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import tempfile
import threading
import time
import types
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import psutil
import yaml
from rich.console import Console
from rich.table import Table

from taper_operator.kube.informer.cache import ObjectCache
from taper_operator.kube.informer.reflector import Reflector
from taper_operator.kube.resource import KubeObject, ObjectKey, Resource, own_key
from taper_operator.manifests.kinds import PODS, RAY_JOBS, RLHF_JOBS

ROOT = Path(__file__).parents[1]
PODS_OF_A_JOB = 3
PODS_OF_A_NODE = 100
MAX_P99_SECONDS = 5.0
MAX_BURST_SECONDS = 120.0
MAX_BYTES = 300 * 10**6
WAIT_SECONDS = 900.0
SETTLE_SECONDS = 20.0
SAMPLE_SECONDS = 0.5
APPLIERS = 16


def tests_module(name: str) -> Any:
    """A module of the tests, whose folders are no packages, under a name of its own."""
    root = types.ModuleType("taper_tests")
    root.__path__ = [str(ROOT / "tests")]
    sys.modules.setdefault("taper_tests", root)
    return importlib.import_module(f"taper_tests.{name}")


class Seen:
    """When objects of a kind were first seen, by a watch of this process; and which are there now."""

    def __init__(self, api: Any, resource: Resource, namespace: str) -> None:
        self.at: dict[str, float] = {}
        self.cache = ObjectCache(keys_of=own_key)
        self._namespace = namespace
        self._reflector = Reflector(
            api,
            resource,
            self.cache,
            deliver=self._note,
            clock=time.monotonic,
            random=Random(),
            namespace=namespace,
        )
        self._thread = threading.Thread(target=self._reflector.run, daemon=True)
        self._thread.start()

    def _note(self, key: ObjectKey) -> None:
        self.at.setdefault(key.name, time.monotonic())

    def objects(self) -> list[KubeObject]:
        found = [self.cache.get(ObjectKey(self._namespace, name)) for name in list(self.at)]
        return [obj for obj in found if obj is not None]

    def stop(self) -> None:
        self._reflector.stop()
        self._thread.join(10)


class Memory:
    """The largest resident memory of a process, sampled every `SAMPLE_SECONDS`."""

    def __init__(self, pid: int) -> None:
        self.max_bytes = 0
        self._process = psutil.Process(pid)
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._is_over.wait(SAMPLE_SECONDS):
            try:
                self.max_bytes = max(self.max_bytes, self._process.memory_info().rss)
            except psutil.Error:
                return

    def stop(self) -> None:
        self._is_over.set()
        self._thread.join(10)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """The running cluster and operator; `user` is the operator's name in the audit log."""

    cluster: Any
    namespace: str
    user: str
    operator: Any
    jobs: Seen
    ray_jobs: Seen
    pods: Seen
    memory: Memory
    log: Callable[[str], None]

    def apply(self, name: str) -> float:
        """Apply a job; returns the time before the request, of `time.monotonic`."""
        began = time.monotonic()
        self.cluster.api.apply(RLHF_JOBS, manifest(name, self.namespace))
        return began

    def wait(self, what: str, ask: Callable[[], bool]) -> None:
        """Raises RuntimeError after WAIT_SECONDS, or when the operator has ended."""
        self.log(f"waiting until {what}")
        deadline = time.monotonic() + WAIT_SECONDS
        while not ask():
            if not self.operator.is_alive:
                raise RuntimeError(f"the operator has ended:\n{self.operator.last_words()}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"not within {WAIT_SECONDS:g} s: {what}")
            time.sleep(0.2)


def manifest(name: str, namespace: str) -> KubeObject:
    """A job of a head and two pods of two GPUs."""
    job: KubeObject = tests_module("api.rule_violations").broken(
        {
            "metadata.name": name,
            "metadata.namespace": namespace,
            "spec.training": {"steps": 3, "batchPrompts": 8, "ranks": 2, "nodes": PODS_OF_A_JOB - 1},
            "spec.rollout.footprint": 2,
            "spec.nodePools": {"head": {"memory": "1Gi"}, "gpu": {"gpusPerNode": 2, "memory": "1Gi"}},
        }
    )
    return job


@contextmanager
def bench(num_jobs: int, log: Callable[[str], None]) -> Iterator[Bench]:
    """A cluster with room for all pods, and an operator that leads."""
    modules = {
        name: tests_module(f"cluster.{room}.{name}")
        for room, name in (
            ("control_plane", "cluster"),
            ("control_plane", "control_plane"),
            ("control_plane", "foreign_definitions"),
            ("fakes", "fake_kuberay"),
            ("fakes", "jobs_api"),
            ("scenarios", "operator_process"),
        )
    }
    with tempfile.TemporaryDirectory(prefix="taper-operator-bench-", ignore_cleanup_errors=True) as folder:
        plane = modules["control_plane"].ControlPlane(Path(folder))
        try:
            log("starting the control plane")
            plane.start()
            cluster = modules["cluster"].Cluster(plane)
            crds = sorted((ROOT / "manifests" / "crds").glob("*.yaml"))
            cluster.define(*(yaml.safe_load(file.read_text()) for file in crds))
            cluster.define(*modules["foreign_definitions"].definitions())
            plane.start_controllers()
            for _ in range(-(-num_jobs * PODS_OF_A_JOB // PODS_OF_A_NODE) + 1):
                cluster.new_node(gpus=1000, cpus=10_000)
            jobs = modules["jobs_api"].JobsByNamespace(modules["jobs_api"].ScriptedJobs())
            kuberay = modules["fake_kuberay"].FakeKubeRay(cluster.new_api(), jobs, period_seconds=15.0)
            kuberay.start()
            namespace = cluster.new_namespace("bench")
            installation = modules["operator_process"].Installation(cluster, [namespace])
            with installation.running() as operator:
                seen = [Seen(cluster.new_api(), kind, namespace) for kind in (RLHF_JOBS, RAY_JOBS, PODS)]
                memory = Memory(operator.pid)
                yield Bench(
                    cluster=cluster,
                    namespace=namespace,
                    user=installation.user,
                    operator=operator,
                    jobs=seen[0],
                    ray_jobs=seen[1],
                    pods=seen[2],
                    memory=memory,
                    log=log,
                )
                memory.stop()
                for each in seen:
                    each.stop()
            kuberay.stop()
        finally:
            plane.stop()


def paced(bench: Bench, names: list[str], rate: float) -> list[float]:
    """Seconds from each apply to its RayJob."""
    began = time.monotonic()
    applied: dict[str, float] = {}
    with ThreadPoolExecutor(APPLIERS) as threads:
        futures = {}
        for number, name in enumerate(names):
            time.sleep(max(0.0, began + number / rate - time.monotonic()))
            futures[name] = threads.submit(bench.apply, name)
        applied = {name: future.result() for name, future in futures.items()}
    bench.wait("each has its RayJob", lambda: all(f"{name}-1" in bench.ray_jobs.at for name in names))
    return [bench.ray_jobs.at[f"{name}-1"] - at for name, at in applied.items()]


def quiet(bench: Bench, num_jobs: int, seconds: float) -> list[str]:
    """The operator's writes in that time, except those of its Lease: verb and resource."""
    audit = tests_module("cluster.control_plane.audit_log")

    def all_run() -> bool:
        phases = [job.get("status", {}).get("phase") for job in bench.jobs.objects()]
        return phases.count("Running") == num_jobs

    bench.wait("all run", all_run)
    time.sleep(SETTLE_SECONDS)
    bench.log(f"counting writes for {seconds:g} s")
    since = time.time()
    time.sleep(seconds)
    return [
        f"{request.verb} {request.resource}"
        for request in audit.requests_of(bench.cluster.plane.audit_log, bench.user)
        if request.at >= since and request.verb in audit.WRITES and request.resource != "leases"
    ]


def burst(bench: Bench, names: list[str]) -> float:
    """Seconds from the first apply of all at once to the last RayJob."""
    began = time.monotonic()
    with ThreadPoolExecutor(APPLIERS) as threads:
        list(threads.map(bench.apply, names))
    bench.wait("each has its RayJob", lambda: all(f"{name}-1" in bench.ray_jobs.at for name in names))
    return max(bench.ray_jobs.at[f"{name}-1"] for name in names) - began


def delete_all(bench: Bench) -> None:
    """Delete all jobs, and wait until their RayJobs and pods are gone."""
    with ThreadPoolExecutor(APPLIERS) as threads:
        list(threads.map(lambda job: bench.cluster.delete(RLHF_JOBS, job), bench.jobs.objects()))
    bench.wait(
        "nothing is left", lambda: not (bench.ray_jobs.cache.num_objects() or bench.pods.cache.num_objects())
    )


def measure(bench: Bench, options: argparse.Namespace) -> dict[str, Any]:
    """Run all measurements, in order."""
    names = [f"paced-{number}" for number in range(options.jobs)]
    bench.log(f"{options.jobs} jobs at {options.rate:g} a second")
    seconds = paced(bench, names, options.rate)
    writes = quiet(bench, options.jobs, options.quiet)
    num_pods = bench.pods.cache.num_objects()
    delete_all(bench)
    bench.log(f"{options.jobs} jobs at once")
    burst_seconds = burst(bench, [f"burst-{number}" for number in range(options.jobs)])
    return {
        "jobs": options.jobs,
        "pods": num_pods,
        "paced_p50_seconds": float(np.quantile(seconds, 0.5)),
        "paced_p99_seconds": float(np.quantile(seconds, 0.99)),
        "paced_max_seconds": max(seconds),
        "burst_seconds": burst_seconds,
        "max_bytes": bench.memory.max_bytes,
        "quiet_writes": writes,
    }


def verdicts(found: dict[str, Any]) -> list[tuple[str, str, str, bool]]:
    """Figure, measured value, limit, and whether the value is within it."""
    p99, burst_seconds, size = found["paced_p99_seconds"], found["burst_seconds"], found["max_bytes"]
    writes = len(found["quiet_writes"])
    return [
        ("apply → RayJob, p99", f"{p99:.2f} s", f"≤ {MAX_P99_SECONDS:g} s", p99 <= MAX_P99_SECONDS),
        (
            "all at once",
            f"{burst_seconds:.1f} s",
            f"≤ {MAX_BURST_SECONDS:g} s",
            burst_seconds <= MAX_BURST_SECONDS,
        ),
        ("resident memory", f"{size / 1e6:.0f} MB", f"< {MAX_BYTES / 1e6:.0f} MB", size < MAX_BYTES),
        ("writes while idle, except the Lease", str(writes), "0", writes == 0),
        (
            "pods",
            str(found["pods"]),
            str(found["jobs"] * PODS_OF_A_JOB),
            found["pods"] == found["jobs"] * PODS_OF_A_JOB,
        ),
    ]


def main() -> int:
    """Run, print, write; returns the exit code."""
    options = _options()
    console = Console()
    try:
        with bench(options.jobs, lambda text: console.print(text, highlight=False)) as made:
            found = measure(made, options)
    except tests_module("cluster.control_plane.cluster_tools").NoTools as error:
        sys.stderr.write(f"{error}\n")
        return 2
    table = Table("figure", "measured", "limit", "", title=f"{found['jobs']} jobs, {found['pods']} pods")
    rows = verdicts(found)
    for figure, value, bound, holds in rows:
        table.add_row(figure, value, bound, "" if holds else "missed")
    console.print(table)
    content = {
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpus": os.cpu_count(),
        "settings": {name: str(value) for name, value in vars(options).items()},
    }
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "operator.json").write_text(
        json.dumps(content | found, indent=1) + "\n", encoding="utf-8"
    )
    return 0 if all(holds for *_, holds in rows) else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=500)
    parser.add_argument("--rate", type=float, default=5.0, help="jobs applied a second")
    parser.add_argument("--quiet", type=float, default=120.0, help="seconds for which writes are counted")
    parser.add_argument("--output", type=Path, default=Path("build/benchmarks/operator"))
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

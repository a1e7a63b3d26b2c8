"""How fast the cores are while a benchmark runs: on a shared host their speed changes.

One process for each core does the same small work every `EVERY_SECONDS` (matrix products that fit the L1
cache) and measures its *processor* seconds: waiting for the benchmark's own processes does not count, a busy
neighbour on the host does. A warm-up before each measurement excludes cache misses that the benchmark
causes. The probe takes half a percent of a core.

    with CoreSpeed() as cores:
        ...
        slowness = cores.slowness(started_at, ended_at)
"""

from __future__ import annotations

import multiprocessing
import os
import time
from multiprocessing.connection import Connection
from types import TracebackType
from typing import NamedTuple

EVERY_SECONDS, START_SECONDS = 0.25, 60.0
WARM_PRODUCTS, PRODUCTS, SIDE = 20, 150, 64


class _Sample(NamedTuple):
    at: float
    seconds: float


class CoreSpeed:
    """A probe on each core that this process may use, while the context is open."""

    def __enter__(self) -> CoreSpeed:
        context = multiprocessing.get_context("spawn")
        self._taken: dict[int, list[_Sample]] = {}
        self._pipes: dict[int, Connection] = {}
        self._processes = []
        for core in sorted(os.sched_getaffinity(0)):
            here, there = context.Pipe()
            process = context.Process(target=_probe, args=(core, there), daemon=True)
            process.start()
            there.close()
            self._taken[core], self._pipes[core] = [], here
            self._processes.append(process)
        for core, pipe in self._pipes.items():
            if not pipe.poll(START_SECONDS):
                self.__exit__(None, None, None)
                raise TimeoutError(f"the probe of core {core} took no sample in {START_SECONDS:.0f} s")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pipe in self._pipes.values():
            pipe.close()
        for process in self._processes:
            process.join(10.0)

    def slowness(self, started_at: float, ended_at: float) -> float:
        """Mean seconds of the work between two times of `time.time`, over all cores.

        Raises `RuntimeError` if a core has no sample in that interval.
        """
        means = []
        for core, pipe in self._pipes.items():
            taken = self._taken[core]
            while pipe.poll():
                taken.append(_Sample(*pipe.recv()))
            chosen = [sample.seconds for sample in taken if started_at <= sample.at <= ended_at]
            if not chosen:
                raise RuntimeError(f"core {core} was not probed between {started_at} and {ended_at}")
            means.append(sum(chosen) / len(chosen))
        return sum(means) / len(means)


def _probe(core: int, pipe: Connection) -> None:
    """Send a sample every `EVERY_SECONDS` until the other end closes."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
    import numpy as np

    os.sched_setaffinity(0, {core})
    square = np.full((SIDE, SIDE), 0.5, dtype=np.float32)
    made = np.empty_like(square)
    while True:
        # The first products load the matrices, and the code, into the cache again.
        for _ in range(WARM_PRODUCTS):
            np.matmul(square, square, out=made)
        began = time.thread_time()
        for _ in range(PRODUCTS):
            np.matmul(square, square, out=made)
        seconds = time.thread_time() - began
        try:
            pipe.send((time.time(), seconds))
            if pipe.poll(EVERY_SECONDS):
                return
        except (BrokenPipeError, EOFError):
            return

"""Waiting for a cluster that is too small or in use: with a deadline, and reported."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from taper_rollout.job.host import HostResources
from taper_rollout.job.training_failed import TrainingFailed
from taper_rollout.verl.ray_capacity import (
    POLL_SECONDS,
    REPORT_SECONDS,
    RayCapacity,
    Resources,
    wait_for_capacity,
)

ONE_NODE = RayCapacity(ranks=2, nodes=1)
TWO_NODES = RayCapacity(ranks=4, nodes=2)
Seen = tuple[list[Resources], Resources]


def node(gpus: float, cpus: float, **more: float) -> Resources:
    return {"GPU": gpus, "CPU": cpus, **more} if gpus else {"CPU": cpus, **more}


def real(gpus: float, cpus: float) -> Resources:
    return node(gpus, cpus, **{"accelerator_type:H200": 1.0})


def all_free(*nodes: Resources) -> Seen:
    return list(nodes), {name: sum(node.get(name, 0) for node in nodes) for name in ("GPU", "CPU")}


@pytest.mark.parametrize(
    ("capacity", "seen", "lack"),
    [
        (ONE_NODE, all_free(node(1, 64)), r"has 1 GPUs and the job needs 2 \(2 ranks\)"),
        (ONE_NODE, all_free(node(2, 8)), r"has 8 CPUs and the job needs 10"),
        (ONE_NODE, all_free(), r"has 0 GPUs"),
        (
            TWO_NODES,
            all_free(real(8, 34)),
            r"has 34 CPUs and the job needs 35 \(4 ranks on each of 2",
        ),
        (TWO_NODES, all_free(node(6, 64), node(2, 64)), r"has 1 nodes with 4 GPUs and 12 CPUs.* needs 2"),
        (TWO_NODES, all_free(node(4, 64), node(4, 11)), r"has 1 nodes with 4 GPUs and 12 CPUs.* needs 2"),
        (ONE_NODE, ([node(2, 64)], {"CPU": 64.0}), r"0 GPUs of the Ray cluster are free and the job needs 2"),
        (ONE_NODE, ([node(2, 64)], {"GPU": 2.0, "CPU": 9.0}), r"9 CPUs of the Ray cluster are free"),
    ],
)
def test_a_cluster_that_is_too_small_fails_with_what_is_missing(
    capacity: RayCapacity, seen: Seen, lack: str
) -> None:
    with pytest.raises(TrainingFailed, match=lack):
        Waiting(lambda now: seen).wait(capacity, 3.0)


@pytest.mark.parametrize(
    ("capacity", "seen"),
    [
        (ONE_NODE, all_free(node(2, 10))),
        (ONE_NODE, all_free(node(2, 6), node(0, 4))),
        (TWO_NODES, all_free(real(8, 35))),
        (TWO_NODES, all_free(real(4, 12), real(4, 12), node(0, 11))),
    ],
)
def test_a_cluster_that_is_large_enough_needs_no_wait(capacity: RayCapacity, seen: Seen) -> None:
    waiting = Waiting(lambda now: seen)
    waiting.wait(capacity, 3.0)
    assert (waiting.now, waiting.reported) == (0.0, [])


def test_real_gpus_are_detected_once_they_are_available() -> None:
    waiting = Waiting(lambda now: all_free(real(2, 32)) if now >= 2 else all_free(node(0, 16)))
    assert waiting.wait(ONE_NODE, 60.0).num_gpus == 2
    assert Waiting(lambda now: all_free(node(2, 32))).wait(ONE_NODE, 60.0).num_gpus == 0


class Waiting:
    """A wait with a simulated clock. seen: the resources after a number of seconds"""

    def __init__(self, seen: Callable[[float], Seen]) -> None:
        self.now = 0.0
        self.reported: list[str] = []
        self._seen = seen

    def wait(self, capacity: RayCapacity, seconds: float) -> HostResources:
        return wait_for_capacity(
            capacity,
            seconds=seconds,
            report=self.reported.append,
            poll=lambda: self._seen(self.now),
            clock=lambda: self.now,
            sleep=self._sleep,
        )

    def _sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds


def test_resources_that_arrive_in_time_end_the_wait() -> None:
    waiting = Waiting(lambda now: all_free(node(2, 16)) if now >= 40 else all_free(node(0, 16)))
    waiting.wait(ONE_NODE, 60.0)
    assert 40 <= waiting.now <= 40 + POLL_SECONDS
    assert [line.split(":")[0] for line in waiting.reported] == [
        f"waiting for resources, {at:.0f} of 60 s" for at in (0, REPORT_SECONDS, 2 * REPORT_SECONDS)
    ]
    assert "has 0 GPUs and the job needs 2" in waiting.reported[0]


def test_the_wait_ends_at_its_deadline() -> None:
    waiting = Waiting(lambda now: all_free(node(1, 16)))
    with pytest.raises(
        TrainingFailed, match=r"has 1 GPUs and the job needs 2 .*; gave up after 20 s\. Lower"
    ) as caught:
        waiting.wait(ONE_NODE, 20.0)
    assert waiting.now == 20.0
    assert caught.value.reason == "GpusMissing"

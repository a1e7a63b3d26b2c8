"""Reports reach the statuses of jobs: the newest ones, rate-limited, from any replica."""

from __future__ import annotations

import itertools
import threading
import time
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taper_api.status.job_report import JobReport
from taper_api.status.progress import TrainingFigures
from taper_operator.kube.errors import Invalid
from taper_operator.kube.informer.cache import ObjectCache
from taper_operator.kube.resource import KubeObject, ObjectKey, own_key
from taper_operator.manifests.kinds import RLHF_JOBS
from taper_operator.reports.status import ReportNumber, written_number
from taper_operator.reports.writer import ReceivedReport, ReportWriter

from ..clock import Clock
from ..fake_api_server import FakeApiServer
from ..job_objects import NOW, UID, resource

KEY = ObjectKey("team", "full")


def snapshot(sequence: int, attempt: int = 1, *, is_last: bool = False) -> JobReport:
    return JobReport(
        attempt=attempt,
        sequence=sequence,
        is_last=is_last,
        training=TrainingFigures(step=sequence, steps=1000),
    )


class Replica:
    """One replica's writer, with a cache that is updated when a test says so."""

    def __init__(self, fake: FakeApiServer, clock: Clock) -> None:
        self.fake, self.clock = fake, clock
        self.cache = ObjectCache(keys_of=own_key)
        self.results: list[str] = []
        self.writer = ReportWriter(
            fake.api_server(clock),
            self.cache,
            observe=self.results.append,
            clock=clock,
            now=lambda: NOW + timedelta(seconds=clock.now),
        )
        self.refresh()

    def refresh(self) -> None:
        self.cache.replace(self.fake.all(RLHF_JOBS).values())

    def write_due(self) -> None:
        """As `run` does, without waiting."""
        while (key := self.writer._due.take()) is not None:
            self.writer._handle(key)

    def offer(self, sequence: int, attempt: int = 1, *, uid: str = "", is_last: bool = False) -> bool:
        received_at = NOW + timedelta(seconds=self.clock.now)
        report = snapshot(sequence, attempt, is_last=is_last)
        uid = uid or self.fake.objects[RLHF_JOBS, KEY]["metadata"]["uid"]
        return self.writer.offer(KEY, ReceivedReport(uid=uid, job_report=report, received_at=received_at))


@pytest.fixture
def clock() -> Clock:
    clock = Clock()
    clock.now = 100.0
    return clock


@pytest.fixture
def fake() -> FakeApiServer:
    return made()


def made() -> FakeApiServer:
    fake = FakeApiServer(RLHF_JOBS)
    fake.put(RLHF_JOBS, resource() | {"status": {"attempt": 1, "phase": "Running"}})
    return fake


def job(fake: FakeApiServer) -> KubeObject:
    return fake.objects[RLHF_JOBS, KEY]


def sequence_of(fake: FakeApiServer) -> int:
    return written_number(job(fake)).sequence


def writes(fake: FakeApiServer) -> int:
    return fake.verbs("rlhfjobs").count("PATCH")


def test_a_report_is_written_by_its_own_field_manager_and_nothing_else(
    fake: FakeApiServer, clock: Clock
) -> None:
    replica = Replica(fake, clock)
    assert replica.offer(1)
    replica.write_due()
    assert job(fake)["status"]["progress"]["step"] == 1
    assert (job(fake)["status"]["phase"], job(fake)["status"]["attempt"]) == ("Running", 1)
    ((method, path, query, body),) = fake.requests
    assert (method, path.rpartition("/")[2], query["fieldManager"]) == ("PATCH", "status", "taper-progress")
    assert set(body["status"]) == {"progress", "rollout"}
    assert replica.results == ["written"]


def test_at_most_one_write_in_15_seconds_and_it_is_the_newest(fake: FakeApiServer, clock: Clock) -> None:
    replica = Replica(fake, clock)
    for sequence in range(1, 31):
        replica.offer(sequence)
        replica.refresh()
        replica.write_due()
        clock.now += 1
    assert writes(fake) == 2
    assert sequence_of(fake) == 16


def test_the_last_report_does_not_wait(fake: FakeApiServer, clock: Clock) -> None:
    replica = Replica(fake, clock)
    replica.offer(1)
    replica.write_due()
    replica.refresh()
    replica.offer(2)
    replica.write_due()
    assert sequence_of(fake) == 1
    replica.offer(3, is_last=True)
    replica.write_due()
    assert sequence_of(fake) == 3


def test_a_last_report_does_not_wait_behind_a_delayed_one(fake: FakeApiServer, clock: Clock) -> None:
    replica = Replica(fake, clock)
    replica.offer(1)
    replica.write_due()
    replica.refresh()
    looks = itertools.count(1)

    def now() -> datetime:
        if next(looks) == 1:
            assert replica.offer(3, is_last=True)
        return NOW + timedelta(seconds=clock.now)

    replica.writer.now = now
    replica.offer(2)
    replica.write_due()
    assert sequence_of(fake) == 3


def test_the_first_report_of_an_attempt_does_not_wait(fake: FakeApiServer, clock: Clock) -> None:
    replica = Replica(fake, clock)
    replica.offer(7)
    replica.write_due()
    fake.put(RLHF_JOBS, job(fake) | {"status": job(fake)["status"] | {"attempt": 2}})
    replica.refresh()
    assert replica.offer(1, attempt=2)
    replica.write_due()
    assert written_number(job(fake)) == ReportNumber(attempt=2, sequence=1)
    assert not replica.offer(8)


def test_an_old_report_is_refused_even_with_an_outdated_cache(fake: FakeApiServer, clock: Clock) -> None:
    replica = Replica(fake, clock)
    assert replica.offer(2)
    assert not replica.offer(2)
    assert not replica.offer(1)
    replica.write_due()
    assert not replica.offer(2)
    assert replica.offer(3)


def test_reports_of_older_attempts_are_not_written(fake: FakeApiServer, clock: Clock) -> None:
    replica = Replica(fake, clock)
    replica.offer(1)
    fake.put(RLHF_JOBS, job(fake) | {"status": {"attempt": 2}})
    replica.refresh()
    replica.write_due()
    assert (writes(fake), replica.results) == (0, ["stale"])


def test_another_job_of_the_same_name_gets_nothing(fake: FakeApiServer, clock: Clock) -> None:
    replica = Replica(fake, clock)
    replica.offer(1, uid=UID + "0")
    replica.write_due()
    assert (writes(fake), replica.results) == (0, ["gone"])


def test_a_changed_job_is_read_again_before_the_write(fake: FakeApiServer, clock: Clock) -> None:
    replica = Replica(fake, clock)
    fake.put(RLHF_JOBS, job(fake) | {"status": {"attempt": 1, "phase": "Queued"}})
    replica.offer(1)
    replica.write_due()
    assert sequence_of(fake) == 1
    assert job(fake)["status"]["phase"] == "Queued"
    assert fake.verbs("rlhfjobs") == ["PATCH", "GET", "PATCH"]


def test_a_failed_write_is_retried_with_growing_delays(fake: FakeApiServer, clock: Clock) -> None:
    replica = Replica(fake, clock)
    tries: list[float] = []

    def fail(method: str, path: str) -> None:
        if method == "PATCH":
            tries.append(clock.now)
            raise OSError("no route")

    fake.fault = fail
    replica.offer(1)
    for _ in range(200):
        replica.write_due()
        clock.now += 1
    gaps = [later - earlier for earlier, later in itertools.pairwise(tries)]
    assert gaps == sorted(gaps)
    assert 5 <= len(tries) <= 12
    assert max(gaps) <= 61
    fake.fault = lambda method, path: None
    clock.now += 61
    replica.write_due()
    assert sequence_of(fake) == 1


def test_a_report_that_the_api_server_rejects_is_dropped(
    fake: FakeApiServer, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica = Replica(fake, clock)

    def refuse(*_: Any, **__: Any) -> None:
        raise Invalid("no such field", status=422)

    monkeypatch.setattr(replica.writer.api_server, "apply_status", refuse)
    replica.offer(1)
    replica.write_due()
    clock.now += 120
    replica.write_due()
    assert replica.results == ["refused"]


@given(
    st.lists(
        st.tuples(st.integers(0, 1), st.sampled_from(["offer", "write", "refresh", "wait", "last"])),
        max_size=60,
    )
)
def test_two_replicas_never_write_an_older_report_and_keep_the_rate(moves: list[tuple[int, str]]) -> None:
    fake, clock = made(), Clock()
    replicas = [Replica(fake, clock), Replica(fake, clock)]
    sequence, seen, times = 0, [0], []
    for which, move in moves:
        replica = replicas[which]
        if move in ("offer", "last"):
            sequence += 1
            replica.offer(sequence, is_last=move == "last")
        elif move == "refresh":
            replica.refresh()
        elif move == "wait":
            clock.now += 4
        else:
            before = sequence_of(fake)
            replica.write_due()
            if sequence_of(fake) != before:
                is_last = ("last", sequence_of(fake)) in _lasts(moves)
                times.append((clock.now, is_last))
        seen.append(sequence_of(fake))
    assert seen == sorted(seen)
    for (earlier, _), (later, is_last) in itertools.pairwise(times):
        assert is_last or later - earlier >= 15


def _lasts(moves: list[tuple[int, str]]) -> set[tuple[str, int]]:
    reported = [move for _, move in moves if move in ("offer", "last")]
    return {("last", number) for number, move in enumerate(reported, start=1) if move == "last"}


def test_a_thread_writes_queued_reports_and_ends_on_stop(fake: FakeApiServer) -> None:
    clock = Clock()
    replica = Replica(fake, clock)
    thread = threading.Thread(target=replica.writer.run, daemon=True)
    thread.start()
    time.sleep(0.05)
    replica.offer(1)
    deadline = time.monotonic() + 10
    while sequence_of(fake) != 1 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert sequence_of(fake) == 1
    replica.writer.stop()
    thread.join(10)
    assert not thread.is_alive()

"""The work queue, by a reference model and by every interleaving that hypothesis thinks of."""

from __future__ import annotations

import threading
from random import Random

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from taper_operator.kube.backoff import Backoff
from taper_operator.kube.informer.work_queue import WorkQueue

from ...examples import examples
from ..clock import Clock

KEYS = st.sampled_from(["a", "b", "c"])
BACKOFF = Backoff(first_seconds=1.0, cap_seconds=8.0, jitter=0.0)


def make_queue(clock: Clock) -> WorkQueue[str]:
    return WorkQueue(clock=clock, random=Random(1), backoff=BACKOFF)


class Workers(RuleBasedStateMachine):
    """Adds, takes and dones in any order, and what must come of them."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.queue = make_queue(self.clock)
        self.owed: set[str] = set()  # added, and not taken since
        self.handled: set[str] = set()
        self.due_at: dict[str, float] = {}
        self.failures: dict[str, int] = {}

    @rule(key=KEYS)
    def add(self, key: str) -> None:
        self.queue.add(key)
        self.owed.add(key)

    @rule(key=KEYS, seconds=st.sampled_from([-1.0, 0.0, 0.5, 2.0, 5.0]))
    def add_after(self, key: str, seconds: float) -> None:
        self.queue.add_after(key, seconds)
        if seconds <= 0:
            self.owed.add(key)
        else:
            self._delay(key, seconds)

    @rule(key=KEYS)
    def add_after_failure(self, key: str) -> None:
        self.failures[key] = self.failures.get(key, 0) + 1
        seconds = self.queue.add_after_failure(key)
        assert seconds == min(8.0, 2.0 ** (self.failures[key] - 1))
        self._delay(key, seconds)

    @rule(key=KEYS)
    def forget(self, key: str) -> None:
        self.queue.forget(key)
        self.failures.pop(key, None)

    @rule(seconds=st.sampled_from([0.1, 0.5, 1.0, 4.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.now += seconds
        for key in [key for key, due_at in self.due_at.items() if due_at <= self.clock.now]:
            del self.due_at[key]
            self.owed.add(key)

    @rule()
    def take(self) -> None:
        key = self.queue.take()
        ready = self.owed - self.handled
        assert (key in ready) if ready else (key is None)
        if key is not None:
            self.owed.remove(key)
            self.handled.add(key)

    @precondition(lambda self: self.handled)
    @rule(data=st.data())
    def done(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.handled)))
        self.queue.done(key)
        self.handled.remove(key)

    @invariant()
    def nothing_is_lost_nor_waits_twice(self) -> None:
        assert self.queue.depth() == len(self.owed)

    def _delay(self, key: str, seconds: float) -> None:
        self.due_at[key] = min(self.clock.now + seconds, self.due_at.get(key, float("inf")))


TestWorkers = Workers.TestCase
TestWorkers.settings = settings(examples(150), stateful_step_count=40)


def test_keys_are_taken_in_the_order_in_which_they_came() -> None:
    queue = make_queue(Clock())
    for key in ("b", "a", "b", "c"):
        queue.add(key)
    assert [queue.take() for _ in range(4)] == ["b", "a", "c", None]


def test_a_key_added_while_it_is_handled_is_handled_again_afterwards() -> None:
    queue = make_queue(Clock())
    queue.add("a")
    assert queue.take() == "a"
    queue.add("a")
    assert queue.take() is None
    queue.done("a")
    assert queue.take() == "a"


def test_a_retry_does_not_wait_where_a_change_came_meanwhile() -> None:
    queue = make_queue(Clock())
    queue.add_after_failure("a")
    assert queue.take() is None
    queue.add("a")
    assert queue.take() == "a"


def test_a_handled_key_has_a_cooldown_that_delays_no_other_key() -> None:
    clock = Clock()
    queue: WorkQueue[str] = WorkQueue(clock=clock, random=Random(1), backoff=BACKOFF, cooldown_seconds=2.0)
    queue.add("a")
    assert queue.take() == "a"
    queue.add("a")
    clock.now += 5
    queue.done("a")
    queue.add("a")
    queue.add_after_failure("a")  # after a second, which is too soon
    queue.add("b")
    assert [queue.take(), queue.take()] == ["b", None]
    clock.now += 1.9
    assert queue.take() is None
    clock.now += 0.1
    assert [queue.take(), queue.take()] == ["a", None]
    queue.done("a")
    queue.done("b")
    clock.now += 2
    assert queue.take() is None
    queue.add("a")
    assert queue.take() == "a"
    assert not queue._cooldown_until


def test_a_wait_ends_when_the_queue_is_shut_down() -> None:
    queue = make_queue(Clock())
    queue.add_after("a", 1_000)
    taken: list[str | None] = []
    threads = [threading.Thread(target=lambda: taken.append(queue.take_or_wait())) for _ in range(3)]
    for thread in threads:
        thread.start()
    queue.shut_down()
    for thread in threads:
        thread.join(10)
    assert taken == [None, None, None]
    queue.add("a")
    assert queue.take() is None


def test_all_waiting_workers_are_woken_by_a_delayed_key() -> None:
    """One of them may be busy with another key when it is due."""
    clock = Clock()
    queue = make_queue(clock)
    waits: list[float | None] = []

    def wait(seconds: float | None) -> None:
        waits.append(seconds)
        if len(waits) == 2:
            queue.shut_down()

    queue._changed.wait = wait  # type: ignore[method-assign,assignment]
    notified: list[str] = []
    queue._changed.notify_all = lambda: notified.append("all")  # type: ignore[method-assign]
    queue.add_after("a", 5)
    assert notified == ["all"]
    assert queue.take_or_wait() is None
    assert waits == [5.0, 5.0]


def test_workers_in_threads_never_share_a_key() -> None:
    """4 workers, 20 keys, 3000 adds: each key is handled after its last add, and never twice at a time."""
    queue: WorkQueue[int] = WorkQueue(clock=lambda: 0.0, random=Random(1))
    last_added = [0] * 20
    last_seen = [-1] * 20
    busy = [threading.Lock() for _ in range(20)]
    shared: list[int] = []

    def work() -> None:
        while (key := queue.take_or_wait()) is not None:
            if not busy[key].acquire(blocking=False):
                shared.append(key)
                continue
            last_seen[key] = last_added[key]
            busy[key].release()
            queue.done(key)

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    random = Random(2)
    for number in range(3_000):
        key = random.randrange(20)
        last_added[key] = number
        queue.add(key)
    while queue.depth() or queue._handled:
        pass
    queue.shut_down()
    for worker in workers:
        worker.join(10)
    assert shared == []
    assert last_seen == last_added


def test_metrics_show_how_long_keys_wait_and_are_handled() -> None:
    clock = Clock()
    queue = make_queue(clock)
    assert (queue.oldest_wait_seconds(), queue.longest_handled_seconds()) == (0, 0)
    queue.add("a")
    clock.now += 3
    assert queue.oldest_wait_seconds() == 3
    queue.take()
    clock.now += 4
    assert (queue.depth(), queue.oldest_wait_seconds(), queue.longest_handled_seconds()) == (0, 0, 4)

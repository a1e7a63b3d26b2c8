import threading

from taper_rollout.events import EventsLost, StageRecord
from taper_rollout.report.inbox import Inbox

from .stage_builder import make_progress, make_stage, make_step


def test_drain_gives_events_in_order_and_once():
    inbox = Inbox()
    for step in (1, 2):
        inbox.post(make_step(step))
    assert [event.step for event in inbox.drain()] == [1, 2]
    assert inbox.drain() == []


def test_only_the_newest_progress_of_a_replica_is_kept():
    inbox = Inbox()
    for replica, running in ((0, 9), (1, 8), (0, 7)):
        inbox.post(make_progress(replica=replica, running=running))
    assert [(event.replica, event.running) for event in inbox.drain()] == [(0, 7), (1, 8)]


def test_progress_of_a_finished_stage_is_dropped():
    inbox = Inbox()
    inbox.post(make_progress())
    inbox.post(make_stage())
    assert [type(event) for event in inbox.drain()] == [StageRecord]


def test_a_full_inbox_drops_the_oldest_events_and_reports_how_many():
    inbox = Inbox(max_events=3)
    for step in range(5):
        inbox.post(make_step(step))
    lost, *kept = inbox.drain()
    assert lost == EventsLost(count=2)
    assert [event.step for event in kept] == [2, 3, 4]
    assert inbox.drain() == []


def test_posts_of_many_threads_all_arrive():
    inbox, drained = Inbox(), []

    def post():
        for step in range(500):
            inbox.post(make_step(step))

    threads = [threading.Thread(target=post) for _ in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        drained += inbox.drain()
    drained += inbox.drain()
    assert len(drained) == 2000

"""How a replica's state follows from the journals of its ranks."""

from __future__ import annotations

import pytest

from taper_rollout.shared_memory.switch_journal import SwitchJournal
from taper_rollout.switching.rank_protocol import RankProtocol
from taper_rollout.switching.replica_protocol import followed
from taper_rollout.switching.states import IllegalTransition, SwitchEvent, SwitchProtocol, SwitchState


class Rank:
    """A rank's protocol, with a clock that the test sets, and its journal."""

    def __init__(self) -> None:
        self.now, self.journal = 0.0, SwitchJournal()
        self.protocol = RankProtocol(self, lambda: self.now)  # type: ignore[arg-type]

    def write(self, journal: SwitchJournal) -> None:
        self.journal = journal

    def propose(self, at: float, *, epoch: int = 1, timeout_seconds: float = 20.0) -> None:
        self.now = at
        self.protocol.propose(epoch, proposed_at=at, timeout_seconds=timeout_seconds)

    def apply(self, at: float, *events: SwitchEvent) -> None:
        self.now = at
        for event in events:
            self.protocol.apply(event)


class Replica:
    """Two ranks and the replica's protocol, which has proposed a switch at 1.0."""

    def __init__(self) -> None:
        self.ranks = [Rank(), Rank()]
        self.protocol = SwitchProtocol(timeout_seconds=20.0)
        self.propose(1.0)

    def propose(self, at: float) -> None:
        self.protocol = self.protocol.apply(SwitchEvent.PROPOSED, self.protocol.epoch + 1, at)

    def follow(self) -> SwitchProtocol:
        self.protocol = followed(self.protocol, [rank.journal for rank in self.ranks])
        return self.protocol

    def transitions(self) -> list[tuple[SwitchState, float]]:
        return [(one.state, one.at) for one in self.follow().transitions]


@pytest.fixture
def replica() -> Replica:
    return Replica()


E, S = SwitchEvent, SwitchState


def test_an_event_has_happened_when_it_has_on_every_rank_at_the_time_of_the_last(replica: Replica) -> None:
    one, two = replica.ranks
    one.propose(2.0)
    assert replica.follow().state is S.PREPARED
    one.apply(3.0, E.ALL_AGREED)
    assert replica.follow().state is S.PREPARED
    two.propose(2.5)
    two.apply(4.0, E.ALL_AGREED)
    assert replica.transitions() == [(S.PREPARED, 1.0), (S.QUIESCED, 4.0)]


def test_states_that_passed_between_two_looks_are_not_missed(replica: Replica) -> None:
    for rank, offset in zip(replica.ranks, (0.0, 0.5), strict=True):
        rank.propose(2.0)
        for at, event in enumerate((E.ALL_AGREED, E.PLAN_MATCHED, E.ALL_DONE, E.RESUMED), start=3):
            rank.apply(at + offset, event)
    assert replica.transitions() == [
        (S.PREPARED, 1.0),
        (S.QUIESCED, 3.5),
        (S.TRANSFERRING, 4.5),
        (S.COMMITTED, 5.5),
        (S.SERVING, 6.5),
    ]
    assert replica.protocol.cause is None
    assert replica.follow().transitions == replica.protocol.transitions, "a second look changes nothing"


def test_one_rank_aborts_the_replica_at_once_and_the_earliest_cause_counts(replica: Replica) -> None:
    one, two = replica.ranks
    one.propose(2.0)
    one.apply(9.0, E.TIMEOUT, E.RESUMED)
    two.propose(2.0)
    two.apply(3.0, E.FAULT)
    assert replica.transitions() == [(S.PREPARED, 1.0), (S.ABORTED, 3.0)]
    assert replica.protocol.cause is E.FAULT
    two.apply(4.0, E.RESUMED)
    assert replica.transitions()[-1] == (S.SERVING, 9.0)


def test_a_rank_that_cannot_go_back_leaves_the_replica_aborted(replica: Replica) -> None:
    one, two = replica.ranks
    for rank in replica.ranks:
        rank.propose(2.0)
        rank.apply(3.0, E.ALL_AGREED, E.PLAN_MATCHED)
    two.apply(4.0, E.FAULT)
    one.apply(9.0, E.TIMEOUT, E.RESUMED)
    assert replica.follow().state is S.ABORTED
    with pytest.raises(IllegalTransition, match="proposed while aborted"):
        replica.propose(10.0)


def test_a_fault_after_the_commit_aborts(replica: Replica) -> None:
    one, two = replica.ranks
    for rank in replica.ranks:
        rank.propose(2.0)
        rank.apply(3.0, E.ALL_AGREED, E.PLAN_MATCHED, E.ALL_DONE)
    one.apply(4.0, E.RESUMED)
    two.apply(5.0, E.FAULT)
    assert replica.transitions()[-2:] == [(S.COMMITTED, 3.0), (S.ABORTED, 5.0)]
    assert replica.protocol.cause is E.FAULT


def test_requests_that_do_not_resume_in_time_end_the_switch_without_aborting_it(replica: Replica) -> None:
    one, two = replica.ranks
    for rank in replica.ranks:
        rank.propose(1.0)
        rank.apply(3.0, E.ALL_AGREED, E.PLAN_MATCHED, E.ALL_DONE)
    one.apply(4.0, E.RESUMED)
    two.now = 20.9
    assert not two.protocol.expire()
    assert replica.follow().state is S.COMMITTED
    two.now = 21.0
    assert two.protocol.expire()
    assert replica.transitions()[-1] == (S.SERVING, 21.0)
    assert replica.protocol.transitions[-1].event is E.TIMEOUT
    assert replica.protocol.cause is None


def test_an_expired_switch_gives_way_to_the_next(replica: Replica) -> None:
    rank = replica.ranks[0]
    rank.propose(1.0)
    rank.apply(3.0, E.ALL_AGREED, E.PLAN_MATCHED, E.ALL_DONE)
    with pytest.raises(IllegalTransition, match="proposed while committed"):
        rank.propose(20.0, epoch=2)
    rank.propose(21.0, epoch=2)
    assert (rank.protocol.state, rank.journal.epoch, len(rank.journal.events)) == (S.PREPARED, 2, 1)


def test_what_the_coordinator_applied_itself_is_not_applied_again(replica: Replica) -> None:
    for rank in replica.ranks:
        rank.propose(1.0)
        rank.apply(3.0, E.ALL_AGREED, E.PLAN_MATCHED, E.ALL_DONE)
    replica.follow()
    replica.protocol = replica.protocol.apply(E.TIMEOUT, 1, 21.0)
    for rank in replica.ranks:
        rank.apply(22.0, E.RESUMED)
    assert replica.transitions()[-1] == (S.SERVING, 21.0)


def test_journals_of_an_earlier_switch_say_nothing_of_this_one(replica: Replica) -> None:
    for rank in replica.ranks:
        rank.propose(1.0)
        rank.apply(2.0, E.REFUSED, E.RESUMED)
    replica.follow()
    replica.propose(5.0)
    assert replica.transitions() == [(S.PREPARED, 5.0)]
    assert replica.protocol.epoch == 2
    assert replica.protocol.cause is None


def test_journals_that_no_rank_could_have_written_raise(replica: Replica) -> None:
    for rank in replica.ranks:
        rank.propose(1.0)
        rank.journal = SwitchJournal(epoch=1, events=(*rank.journal.events, (list(E).index(E.ALL_DONE), 2.0)))
    with pytest.raises(IllegalTransition, match="all done while prepared"):
        replica.follow()

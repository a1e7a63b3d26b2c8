"""What a switch did: of one rank, and of the replica."""

from __future__ import annotations

import dataclasses

from taper_rollout.shared_memory.switch_journal import SwitchJournal
from taper_rollout.switching.figures import MovedRequest, SwitchFigures

RANK = SwitchFigures(
    live_requests=3,
    live_tokens=60,
    migrated_requests=1,
    migrated_tokens=20,
    recomputed_requests=1,
    recomputed_tokens=7,
    moved_bytes=640,
    commit_seconds=0.1,
    blocked_seconds=0.5,
    parts_seconds={"offer": 0.1, "kv": 0.2},
    requests=(MovedRequest("a", 0, 20, 0), MovedRequest("b", 1, 40, 0)),
)


def test_a_replica_has_the_requests_of_all_groups_and_the_times_of_its_slowest_rank() -> None:
    """Four ranks in two groups: followers repeat what their leader reports."""
    slow = dataclasses.replace(
        RANK, blocked_seconds=0.9, recomputed_tokens=11, parts_seconds={"offer": 0.3}, requests=()
    )
    fast = dataclasses.replace(RANK, requests=())
    found = SwitchFigures.of_replica([RANK, fast, slow, fast], leaders=(0, 2))
    assert (found.migrated_requests, found.migrated_tokens, found.recomputed_requests) == (2, 40, 2)
    assert found.recomputed_tokens == 11
    assert (found.blocked_seconds, found.parts_seconds) == (0.9, {"offer": 0.3})
    assert found.requests == RANK.requests
    assert (found.live_requests, found.live_tokens, found.moved_bytes) == (3, 60, 640)


def test_a_pause_is_the_longest_of_the_ranks_and_each_groups_prefills_count_once() -> None:
    ranks = [
        SwitchJournal(epoch=1, paused_at=10.0, resumed_at=10.25, prefilled_tokens=3),
        SwitchJournal(epoch=1, paused_at=10.0, resumed_at=10.5, prefilled_tokens=3),
        SwitchJournal(epoch=1),
        SwitchJournal(epoch=1, paused_at=10.0, resumed_at=10.125, prefilled_tokens=5),
    ]
    found = RANK.with_resumptions(ranks, leaders=(0, 2))
    assert (found.pause_seconds, found.prefilled_tokens) == (0.5, 3)
    assert RANK.with_resumptions([SwitchJournal(epoch=1), SwitchJournal(epoch=1)], leaders=(0, 1)) == RANK

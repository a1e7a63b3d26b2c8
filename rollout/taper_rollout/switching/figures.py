"""What a switch did, in numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from taper_rollout.shared_memory.switch_journal import SwitchJournal


class MovedRequest(NamedTuple):
    """A live request of a switch: its name in the engine, KV tokens before it, and groups."""

    engine_id: str
    old_group: int
    kv_tokens: int
    new_group: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SwitchFigures:
    """A committed switch, as one rank or (`of_replica`) the whole replica saw it.

    `migrated_*` and `recomputed_*` count the requests of the rank's new group that took their KV
    cache along, and those that left it behind. `moved_bytes` crossed ranks, in the whole replica.
    `blocked_seconds` is the time from taking up the switch to the end of `commit_seconds`;
    `parts_seconds` are the marks and durations that `pause_phases` splits the pause by.
    `pause_seconds` and `prefilled_tokens` are 0 until the requests have resumed (`with_resumptions`).
    """

    live_requests: int
    live_tokens: int
    migrated_requests: int
    migrated_tokens: int
    recomputed_requests: int
    recomputed_tokens: int
    moved_bytes: int
    commit_seconds: float
    blocked_seconds: float
    parts_seconds: Mapping[str, float]
    requests: tuple[MovedRequest, ...]
    pause_seconds: float = 0.0
    prefilled_tokens: int = 0

    @classmethod
    def of_replica(cls, ranks: Sequence[SwitchFigures], leaders: Collection[int]) -> SwitchFigures:
        """The replica's figures, from those of all ranks in order; `leaders` lead the new groups.

        Those of the slowest rank, but requests and tokens of all groups, and `recomputed_tokens` of
        the group that has most: groups prefill at the same time.
        """
        groups = [ranks[rank] for rank in leaders]
        return dataclasses.replace(
            max(ranks, key=lambda figures: figures.blocked_seconds),
            migrated_requests=sum(group.migrated_requests for group in groups),
            migrated_tokens=sum(group.migrated_tokens for group in groups),
            recomputed_requests=sum(group.recomputed_requests for group in groups),
            recomputed_tokens=max(group.recomputed_tokens for group in groups),
            requests=ranks[0].requests,
        )

    def with_resumptions(self, journals: Sequence[SwitchJournal], leaders: Collection[int]) -> SwitchFigures:
        """These figures with the longest pause of all ranks, and what the groups prefilled again.

        A rank whose requests are not back counts nothing.
        """
        return dataclasses.replace(
            self,
            pause_seconds=max(journal.resumed_at - journal.paused_at for journal in journals),
            prefilled_tokens=sum(journals[rank].prefilled_tokens for rank in leaders),
        )

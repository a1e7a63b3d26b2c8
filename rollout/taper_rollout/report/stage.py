"""A finished generation stage as the reports read it, and figures over several of them. Pure.

Parsed from the JSON form of `taper_rollout.replica.events.StageRecord`, which is also what the files in
`traces/` hold. Only the fields that the reports use are kept.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SwitchReport:
    """One switch of a stage, with the stage's step and replica. `outcome` is as in `SwitchRecord`."""

    step: int
    replica: int
    at: float
    from_degree: int
    to_degree: int
    kv: str
    outcome: str
    live_requests: int
    migrated_requests: int
    recomputed_requests: int
    pause_seconds: float
    staying_seconds: float | None
    actual_seconds: float | None
    gain_seconds: float | None
    predicted_pause_seconds: float | None

    @classmethod
    def from_json(cls, record: Mapping[str, Any], *, step: int, replica: int) -> Self:
        """Raises `KeyError` for a record without a field that every switch has."""
        return cls(
            step=step,
            replica=replica,
            at=record["at"],
            from_degree=record["from_degree"],
            to_degree=record["to_degree"],
            kv=record["kv"],
            outcome=record["outcome"],
            live_requests=record["live_requests"],
            migrated_requests=record["migrated_requests"],
            recomputed_requests=record["recomputed_requests"],
            pause_seconds=record["pause_seconds"],
            staying_seconds=record["staying_seconds"],
            actual_seconds=record["actual_seconds"],
            gain_seconds=record["gain_seconds"],
            predicted_pause_seconds=record.get("predicted_pause_seconds"),
        )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BatchSize:
    """Running requests of a replica, over all of its groups, at a moment (`at`: Unix seconds)."""

    at: float
    running: int
    degree: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Advised:
    """What following the predictor would have saved of a stage, with its 95 % half width (`mode: advise`)."""

    gain_seconds: float
    half_width_seconds: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Review:
    """A stage compared with other plans in simulation (`taper_policy.review.review.Review`).

    executed_seconds: simulated seconds of the plan that was executed
    static_seconds: simulated seconds of each layout kept throughout, by degree
    model_error: how much longer the stage took than its simulation, as a share
    """

    executed_seconds: float
    best_seconds: float
    static_seconds: Mapping[int, float]
    regret: float
    model_error: float
    advised: Advised | None

    @classmethod
    def from_json(cls, record: Mapping[str, Any] | None) -> Self | None:
        """None for a stage that has no review, or whose record says why it could not be judged."""
        if record is None or "not_judged" in record:
            return None
        advised = record.get("advised")
        return cls(
            executed_seconds=record["executed_seconds"],
            best_seconds=record["best_seconds"],
            static_seconds={int(degree): seconds for degree, seconds in record["static_seconds"].items()},
            regret=record["regret"],
            model_error=record["model_error"],
            advised=advised
            and Advised(
                gain_seconds=advised["gain_seconds"], half_width_seconds=advised["half_width_seconds"]
            ),
        )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StageReport:
    """One finished stage of one replica. `*_at`: Unix seconds; `response_tokens`: of each response."""

    replica: int
    step: int
    num_ranks: int
    started_at: float
    ended_at: float
    idle_rank_seconds: float
    response_tokens: tuple[int, ...]
    batch: tuple[BatchSize, ...]
    switches: tuple[SwitchReport, ...]
    review: Review | None
    regret: float | None

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        """Raises `KeyError` for a record without a field that every stage has."""
        step, replica = record["step"], record["replica"]
        return cls(
            replica=replica,
            step=step,
            num_ranks=record["num_ranks"],
            started_at=record["started_at"],
            ended_at=record["ended_at"],
            idle_rank_seconds=record["idle_rank_seconds"],
            response_tokens=tuple(request["response_tokens"] for request in record["requests"]),
            batch=tuple(
                BatchSize(at=sample["at"], running=sum(sample["running"]), degree=sample["degree"])
                for sample in record["batch"]
            ),
            switches=tuple(
                SwitchReport.from_json(switch, step=step, replica=replica) for switch in record["switches"]
            ),
            review=Review.from_json(record.get("review")),
            regret=record.get("regret"),
        )

    @property
    def seconds(self) -> float:
        """Wall time of the stage."""
        return self.ended_at - self.started_at


def generation_seconds(stages: Iterable[StageReport]) -> float:
    """Wall time in which at least one stage was running: replicas that generate together count once."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted((stage.started_at, stage.ended_at) for stage in stages):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def committed(stages: Iterable[StageReport]) -> list[SwitchReport]:
    """The switches that took effect, in order of time."""
    switches = [switch for stage in stages for switch in stage.switches if switch.outcome == "committed"]
    return sorted(switches, key=lambda switch: switch.at)


def layout_text(num_ranks: int, degree: int) -> str:
    """A uniform layout as groups times degree, like 2\N{MULTIPLICATION SIGN}TP1."""
    return f"{num_ranks // degree}\N{MULTIPLICATION SIGN}TP{degree}"


def total(values: Iterable[float | None]) -> float | None:
    """The sum of the values that were measured; None if none was."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def length_figures(stages: Iterable[StageReport]) -> dict[str, float | int]:
    """The number of responses, and the median, 99th percentile and maximum of their tokens."""
    lengths = sorted(tokens for stage in stages for tokens in stage.response_tokens)
    if not lengths:
        return {"responses": 0}
    return {
        "responses": len(lengths),
        "response_tokens": sum(lengths),
        "response_tokens_median": statistics.median(lengths),
        "response_tokens_p99": percentile(lengths, 0.99),
        "response_tokens_longest": lengths[-1],
    }


def percentile(ascending: Sequence[float], share: float) -> float:
    """The value below which `share` of the values lie, interpolated; `ascending` has at least one value."""
    place = share * (len(ascending) - 1)
    low = int(place)
    high = min(low + 1, len(ascending) - 1)
    return ascending[low] + (ascending[high] - ascending[low]) * (place - low)

"""Builds stages and steps as a run records them. The lengths of the responses decide everything else."""

from __future__ import annotations

from typing import Any

from taper_rollout.events import (
    BatchSample,
    RequestRecord,
    StageProgress,
    StageRecord,
    Step,
    SwitchRecord,
    SwitchTransition,
)

STEP_SECONDS = 0.05
START = 1_700_000_000.0


def make_stage(
    lengths: tuple[int, ...] = (10, 20, 40, 200),
    *,
    step: int = 1,
    replica: int = 0,
    num_ranks: int = 2,
    started_at: float = START,
    switch_at_tokens: int | None = 60,
    gain_seconds: float | None = 1.5,
    outcome: str = "committed",
    **fields: Any,
) -> StageRecord:
    """A stage whose requests start together and take STEP_SECONDS per token; `fields` replace its own."""
    longest = max(lengths)
    is_switched = switch_at_tokens is not None and outcome == "committed"
    batch = []
    for token in range(0, longest, 2):
        running = [sum(length > token for length in lengths[rank::num_ranks]) for rank in range(num_ranks)]
        is_wide = is_switched and token >= (switch_at_tokens or 0)
        if is_wide:
            running = [sum(running)] + [0] * (num_ranks - 1)
        at = started_at + token * STEP_SECONDS
        degree = num_ranks if is_wide else 1
        batch.append(BatchSample(at=at, running=tuple(running), waiting=0, degree=degree))
    requests = [
        RequestRecord(
            request_id=f"{step}-{index}",
            prompt="p" * 8,
            sample=index,
            prompt_tokens=20,
            response_tokens=length,
            started_at=started_at,
            ended_at=started_at + length * STEP_SECONDS,
            finish_reason="completed",
        )
        for index, length in enumerate(lengths)
    ]
    switches = []
    if switch_at_tokens is not None:
        at = started_at + switch_at_tokens * STEP_SECONDS
        switches.append(make_switch(at, num_ranks, gain_seconds=gain_seconds, outcome=outcome))
    own: dict[str, Any] = {
        "replica": replica,
        "step": step,
        "num_ranks": num_ranks,
        "started_at": started_at,
        "ended_at": started_at + longest * STEP_SECONDS,
        "idle_rank_seconds": 2.0,
        "requests": tuple(requests),
        "batch": tuple(batch),
        "switches": tuple(switches),
    }
    return StageRecord(**own | fields)


def make_switch(at: float, num_ranks: int, *, gain_seconds: float | None, outcome: str) -> SwitchRecord:
    return SwitchRecord(
        epoch=1,
        at=at,
        from_degree=1,
        to_degree=num_ranks,
        kv="migrate",
        cause=None if outcome == "committed" else "timeout",
        transitions=[SwitchTransition(event="proposed", state="prepared", at=at)],
        outcome=outcome,
        reason="1 request running",
        live_requests=1,
        live_tokens=60,
        migrated_requests=1,
        recomputed_requests=0,
        moved_bytes=4096,
        prefilled_tokens=1,
        pause_seconds=0.08,
        parts_seconds={"transfer": 0.02},
        staying_seconds=None if gain_seconds is None else 7.0 + gain_seconds,
        actual_seconds=7.0,
        gain_seconds=gain_seconds,
    )


def make_progress(**fields: int) -> StageProgress:
    own = {"replica": 0, "step": 1, "running": 3, "finished": 1, "degree": 1, "num_ranks": 2}
    return StageProgress(**own | fields)


def make_step(step: int = 1, reward: float = 0.25, **metrics: float) -> Step:
    return Step(step=step, metrics={"critic/score/mean": reward, **metrics})

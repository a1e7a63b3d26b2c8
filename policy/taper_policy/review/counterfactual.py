"""What the rest of a stage would have taken in a layout, by the true lengths and measured step times.

Model. At the switch each group runs all its requests at once, none joins, and each
decode step makes one token for every request that still has some to make. A group's
batch thus falls by one at each request's end; a layout's stage ends with its slowest
group. With the remaining tokens of a group sorted, r1 <= r2 <= ... <= rn, the batch is
n for r1 steps, then n - 1 for r2 - r1, and so on: O(n log n).

`staying_seconds - switched_seconds` predicts a switch's gain; its measured gain is
`staying_seconds` minus the time that the stage really took from the switch on.

Invariants (asserted by `tests/policy/review/test_counterfactual.py`):
- equal to a simulation step by step;
- never falls when a request has more tokens to make, if steps of larger batches take no less time;
- blind to the order of groups and of requests.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from taper_policy.review.step_times import DecodeSeconds


def staying_seconds(
    remaining_tokens: Iterable[Sequence[int]], step_times: DecodeSeconds, degree: int
) -> float | None:
    """Seconds to the end of the stage, had the layout stayed as it was.

    `remaining_tokens` holds, for each group of the old layout at `degree`, the tokens
    that each of its live requests had yet to make. 0 where nothing remains; None where
    no step time of the degree is known. `ValueError` for a negative count.
    """
    slowest = 0.0
    for group in remaining_tokens:
        seconds = _group_seconds(group, step_times, degree)
        if seconds is None:
            return None
        slowest = max(slowest, seconds)
    return slowest


def switched_seconds(
    remaining_tokens: Iterable[Sequence[int]],
    step_times: DecodeSeconds,
    degree: int,
    *,
    pause_seconds: float,
) -> float | None:
    """Seconds to the end of the stage after a switch: the pause, then as above in the new layout.

    `remaining_tokens` are grouped by the groups that serve the requests after the
    switch (`SwitchPlan.target_group`), whose degree is `degree`.
    """
    decoding = staying_seconds(remaining_tokens, step_times, degree)
    return None if decoding is None else pause_seconds + decoding


def _group_seconds(remaining_tokens: Sequence[int], step_times: DecodeSeconds, degree: int) -> float | None:
    total, made = 0.0, 0
    for index, tokens in enumerate(sorted(remaining_tokens)):
        if tokens < 0:
            raise ValueError(f"remaining_tokens: {tokens} is negative")
        if tokens == made:
            continue
        step_seconds = step_times.seconds(degree, len(remaining_tokens) - index)
        if step_seconds is None:
            return None
        total += (tokens - made) * step_seconds
        made = tokens
    return total

"""Switch rules: policies that decide from the present snapshot alone, without a forecast.

A rule maps a snapshot to a decision, or to None to stay. It has no state: whatever it needs to know of the
stage so far is in the snapshot. It does not return to the base layout between stages; the replica does.
Live replicas and the simulator use the same rules; the predictor is compared with them.

To add a rule: write a class with `decide`, and build it in `taper_rollout.job.policy_settings`
(CONTRIBUTING.md, "A switch rule"). The rules of an RLHFJob check its settings.

Invariants (asserted by `tests/policy/decision/test_switch_rules.py`):
- a rule never decides for the degree that the replica already has;
- `Threshold` and `WidenAtOnce` never narrow, and never act while requests wait or may still arrive;
- `Schedule` takes its points in order, each at most once a stage.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

from taper_policy.decision.decision import Decision
from taper_policy.decision.snapshot import Snapshot


class SwitchRule(Protocol):
    """The interface of every rule."""

    def decide(self, snapshot: Snapshot) -> Decision | None:
        """The layout to switch to now, or None to stay."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Threshold:
    """Widen to `degree` once at most `requests` requests are running and no more can join them.

    A stage that begins with so few requests widens as soon as all have arrived.
    """

    requests: int
    degree: int

    def decide(self, snapshot: Snapshot) -> Decision | None:
        running = snapshot.num_running
        if not snapshot.is_settled or snapshot.degree >= self.degree or running > self.requests:
            return None
        return Decision(degree=self.degree, reason=f"{running} running, threshold {self.requests}")


@dataclass(frozen=True, slots=True, kw_only=True)
class WidenAtOnce:
    """Widen to `degree` as soon as a group is idle and no request can join it."""

    degree: int

    def decide(self, snapshot: Snapshot) -> Decision | None:
        if not snapshot.is_settled or snapshot.degree >= self.degree or min(snapshot.running) > 0:
            return None
        return Decision(degree=self.degree, reason=f"a group is idle, {snapshot.num_running} running")


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulePoint:
    """Take `degree` once the longest live response has `tokens` decoded tokens."""

    tokens: int
    degree: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Switch at given token counts, in both directions: for tests and controlled runs.

    Point i belongs to the stage's switch i. A point that asks for the present degree (because an
    earlier switch failed) is skipped. Their tokens ascend.
    """

    points: tuple[SchedulePoint, ...]

    def decide(self, snapshot: Snapshot) -> Decision | None:
        """The next point that is due and changes the degree."""
        if not snapshot.num_running:
            return None
        for point in self.points[snapshot.switches_done_in_stage :]:
            if snapshot.longest_decoded_tokens < point.tokens:
                return None
            if point.degree != snapshot.degree:
                return Decision(degree=point.degree, reason=f"scheduled at {point.tokens} tokens")
        return None


THRESHOLDS: Final = (1, 2, 4, 8, 16, 32)


def compared_rules(degree: int) -> dict[str, SwitchRule]:
    """Rules that simulations compare the predictor with, by the names in tables; all widen to `degree`."""
    rules: dict[str, SwitchRule] = {"widen-at-once": WidenAtOnce(degree=degree)}
    return rules | {f"threshold {count}": Threshold(requests=count, degree=degree) for count in THRESHOLDS}

"""Switch rules: policies that decide from the present snapshot alone, without a forecast.

A rule maps a snapshot to a decision, or to None to stay. It has no state: whatever it needs to know of the
stage so far is in the snapshot. It does not return to the base layout between stages; the replica does.
Live replicas and the simulator use the same rules; the predictor is compared with them.

To add a rule: write a class with `decide` and `from_settings`, and name it in `SWITCH_RULES`
(CONTRIBUTING.md, "A switch rule").

Invariants (asserted by `tests/policy/decision/test_switch_rules.py`):
- a rule never decides for the degree that the replica already has;
- `Threshold` and `WidenAtOnce` never narrow, and never act while requests wait or may still arrive;
- `Schedule` takes its points in order, each at most once a stage.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from taper_policy.decision.decision import Decision
from taper_policy.decision.pricing import PredictorSettings
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

    def __post_init__(self) -> None:
        _require(self.requests >= 1, "requests", f"{self.requests} is not 1 or more")
        _require(self.degree >= 1, "degree", f"{self.degree} is not 1 or more")

    @classmethod
    def from_settings(cls, settings: Any, degrees: Sequence[int]) -> Threshold:
        """From `{"requests": n}`; widens to the last of `degrees`."""
        return cls(requests=settings["requests"], degree=degrees[-1])

    def decide(self, snapshot: Snapshot) -> Decision | None:
        """Widen once few requests are left."""
        running = snapshot.num_running
        if not snapshot.is_settled or snapshot.degree >= self.degree or running > self.requests:
            return None
        return Decision(degree=self.degree, reason=f"{running} running, threshold {self.requests}")


@dataclass(frozen=True, slots=True, kw_only=True)
class WidenAtOnce:
    """Widen to `degree` as soon as a group is idle and no request can join it."""

    degree: int

    @classmethod
    def from_settings(cls, _: Any, degrees: Sequence[int]) -> WidenAtOnce:
        """Without settings; widens to the last of `degrees`."""
        return cls(degree=degrees[-1])

    def decide(self, snapshot: Snapshot) -> Decision | None:
        """Widen once the first group is idle."""
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
    earlier switch failed) is skipped. Raises `ValueError` unless the points' tokens
    ascend and each point's degree differs from the one before.
    """

    points: tuple[SchedulePoint, ...]

    def __post_init__(self) -> None:
        _require(bool(self.points), "schedule", "has no points; give at least one {tokens, degree}")
        for index, point in enumerate(self.points):
            path = f"schedule[{index}]"
            _require(point.tokens >= 1, f"{path}.tokens", f"{point.tokens} is not 1 or more")
            _require(point.degree >= 1, f"{path}.degree", f"{point.degree} is not 1 or more")
            if index == 0:
                continue
            before = self.points[index - 1]
            _require(point.tokens > before.tokens, f"{path}.tokens", f"must be more than {before.tokens}")
            _require(point.degree != before.degree, f"{path}.degree", f"is {before.degree} already")

    @classmethod
    def from_settings(cls, settings: Any, degrees: Sequence[int]) -> Schedule:
        """From a list of `{"tokens": n, "degree": d}`; d among `degrees`, at first not the base degree."""
        schedule = cls(points=tuple(SchedulePoint(**point) for point in settings))
        for index, point in enumerate(schedule.points):
            known = ", ".join(map(str, degrees))
            problem = f"{point.degree} is not among the degrees; use one of {known}"
            _require(point.degree in degrees, f"schedule[{index}].degree", problem)
        problem = f"{degrees[0]} is the base degree; a stage begins there"
        _require(schedule.points[0].degree != degrees[0], "schedule[0].degree", problem)
        return schedule

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


SWITCH_RULES: Final[dict[str, Callable[[Any, Sequence[int]], SwitchRule]]] = {
    "widen-at-once": WidenAtOnce.from_settings,
    "threshold": Threshold.from_settings,
    "schedule": Schedule.from_settings,
}
"""Every rule by the name that users give it: built from its settings and the replica's degrees."""

THRESHOLDS: Final = (1, 2, 4, 8, 16, 32)


def compared_rules(degree: int) -> dict[str, SwitchRule]:
    """Rules that simulations compare the predictor with, by the names in tables; all widen to `degree`."""
    rules: dict[str, SwitchRule] = {"widen-at-once": WidenAtOnce(degree=degree)}
    return rules | {f"threshold {count}": Threshold(requests=count, degree=degree) for count in THRESHOLDS}


def rule_from_settings(
    settings: Mapping[str, Any], degrees: Sequence[int], *, path: str = "spec.rollout.policy"
) -> SwitchRule | PredictorSettings:
    """The policy that `settings` describe, for a replica with `degrees` (base first, widest last).

    `settings` are those of `spec.rollout.policy` in snake case, with types and sections already checked
    (by `taper_rollout.job.policy_settings`). `{"name": "predictor"}` gives the predictor's settings. Raises
    `ValueError` that begins with the field's path, below `path`, for settings that do not fit the degrees.
    """
    name = settings["name"]
    if name == "predictor":
        return PredictorSettings(**(settings.get(name) or {}))
    try:
        return SWITCH_RULES[name](settings.get(name), degrees)
    except ValueError as error:
        raise ValueError(f"{path}.{error}") from None


def _require(condition: bool, path: str, problem: str) -> None:
    if not condition:
        raise ValueError(f"{path}: {problem}")

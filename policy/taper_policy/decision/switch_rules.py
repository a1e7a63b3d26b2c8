"""When to switch without predicting: rules that map a snapshot to a decision, or to None, to stay.

DecisionSettings are values without memory: what a rule must know of the stage's past is in the
snapshot. Moving back to the base layout between stages is not theirs to decide. They are
what the predictor (`advisor`) is held against, and for tests.

Invariants (asserted by `tests/policy/decision/test_switch_rules.py`):
- a rule never decides for the degree that the replica already has;
- `Threshold` and `WidenAtOnce` never narrow, and never act while requests wait or may still arrive;
- `Schedule` takes its points in order, each at most once a stage.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol

from taper_policy.decision.pricing import PredictorSettings
from taper_policy.decision.snapshot import Decision, Snapshot


class SwitchRule(Protocol):
    """The interface of every rule."""

    def decide(self, snapshot: Snapshot) -> Decision | None:
        """The layout to switch to now, or None to stay."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Threshold:
    """Widen to `degree` once no more than `requests` are running and none can join them.

    A stage that begins with so few requests widens at once, when all have arrived.
    """

    requests: int
    degree: int

    def __post_init__(self) -> None:
        _require(self.requests >= 1, "requests", f"{self.requests} is not 1 or more")
        _require(self.degree >= 1, "degree", f"{self.degree} is not 1 or more")

    def decide(self, snapshot: Snapshot) -> Decision | None:
        """Widen when the tail has begun; never narrow."""
        running = snapshot.num_running
        if not snapshot.arrivals_settled or snapshot.waiting or snapshot.degree >= self.degree:
            return None
        if not 0 < running <= self.requests:
            return None
        return Decision(degree=self.degree, reason=f"{running} running, threshold {self.requests}")


@dataclass(frozen=True, slots=True, kw_only=True)
class WidenAtOnce:
    """Widen to `degree` as soon as a group has nothing to do, and no request can join it."""

    degree: int

    def decide(self, snapshot: Snapshot) -> Decision | None:
        """Widen when the first group is idle; never narrow."""
        if not snapshot.arrivals_settled or snapshot.waiting or snapshot.degree >= self.degree:
            return None
        if not snapshot.num_running or min(snapshot.running) > 0:
            return None
        return Decision(degree=self.degree, reason=f"a group is idle, {snapshot.num_running} running")


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulePoint:
    """From `tokens` decoded tokens of the longest live request on: `degree`."""

    tokens: int
    degree: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Switch at given token counts, in both directions: for tests and controlled runs.

    Point i is due at the stage's switch i. One that asks for the degree at hand (an
    earlier switch failed) is passed over. Raises `ValueError` unless the points' tokens
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


def rule_from_settings(
    settings: Mapping[str, Any], degrees: Sequence[int], *, path: str = "spec.rollout.policy"
) -> SwitchRule | PredictorSettings:
    """The rule that `settings` describe, for a replica with `degrees` (base first, widest last).

    `{"name": "predictor"}` gives the predictor's settings, changed by those under `predictor`.
    `{"name": "threshold", "threshold": {"requests": 8}}` widens to the last degree.
    `{"name": "widen-at-once"}` does so, too, and `{"name": "schedule", "schedule": [{"tokens": 64,
    "degree": 2}, ...]}` starts from the first. Raises `ValueError` that begins with the path of
    what is wrong, below `path`.
    """
    name = settings.get("name")
    if not isinstance(name, str) or name not in _READERS:
        raise ValueError(f"{path}.name: {name!r} is no policy; use {', '.join(_READERS)}")
    for key, value in settings.items():
        if key not in ("name", *_READERS):
            raise ValueError(f"{path}.{key}: unknown; use {name}")
        if key not in ("name", name) and value is not None:
            raise ValueError(f"{path}.{key}: the policy is {name}; remove it, or change the name")
    if settings.get(name) is None and name in ("threshold", "schedule"):
        raise ValueError(f"{path}.{name}: missing; the policy {name} needs its settings")
    try:
        return _READERS[name](settings.get(name), degrees)
    except ValueError as error:
        raise ValueError(f"{path}.{error}") from None


def _read_predictor(settings: object, degrees: Sequence[int]) -> PredictorSettings:
    if settings is None:
        return PredictorSettings()
    names = {field.name for field in fields(PredictorSettings)}
    given = _read_fields(settings, "predictor", names, required=False)
    numbers = {name: _read_number(value, f"predictor.{name}") for name, value in given.items()}
    for name, number in numbers.items():
        _require(number >= 0, f"predictor.{name}", f"{number} is not 0 or more")
    _require(numbers.get("confidence", 0) <= 1, "predictor.confidence", "is not within [0, 1]")
    return PredictorSettings(**numbers)


def _read_widen_at_once(settings: object, degrees: Sequence[int]) -> SwitchRule:
    _require(settings is None, "widen-at-once", "has no settings")
    return WidenAtOnce(degree=degrees[-1])


def _read_threshold(settings: object, degrees: Sequence[int]) -> SwitchRule:
    requests = _read_whole(
        _read_fields(settings, "threshold", {"requests"})["requests"], "threshold.requests"
    )
    _require(requests >= 1, "threshold.requests", f"{requests} is not 1 or more")
    return Threshold(requests=requests, degree=degrees[-1])


def _read_schedule(settings: object, degrees: Sequence[int]) -> SwitchRule:
    if not isinstance(settings, Sequence) or isinstance(settings, str):
        raise ValueError("schedule: must be a list of {tokens, degree}")
    points = []
    for index, entry in enumerate(settings):
        fields = _read_fields(entry, f"schedule[{index}]", {"tokens", "degree"})
        numbers = {key: _read_whole(value, f"schedule[{index}].{key}") for key, value in fields.items()}
        degree = numbers["degree"]
        if degree not in degrees:
            known = ", ".join(map(str, degrees))
            raise ValueError(
                f"schedule[{index}].degree: {degree} is not among the degrees; use one of {known}"
            )
        points.append(SchedulePoint(tokens=numbers["tokens"], degree=degree))
    schedule = Schedule(points=tuple(points))
    first = schedule.points[0].degree
    _require(first != degrees[0], "schedule[0].degree", f"{first} is the base degree; a stage begins there")
    return schedule


_READERS: dict[str, Callable[[object, Sequence[int]], SwitchRule | PredictorSettings]] = {
    "predictor": _read_predictor,
    "widen-at-once": _read_widen_at_once,
    "threshold": _read_threshold,
    "schedule": _read_schedule,
}


def _read_fields(
    settings: object, path: str, names: set[str], *, required: bool = True
) -> Mapping[str, object]:
    expected = ", ".join(sorted(names))
    if not isinstance(settings, Mapping):
        raise ValueError(f"{path}: must have the fields {expected}")
    for key in settings:
        _require(key in names, f"{path}.{key}", f"unknown; use {expected}")
    for name in sorted(names) if required else ():
        _require(name in settings, f"{path}.{name}", "missing")
    return settings


def _read_whole(value: object, path: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{path}: {value!r} is not a whole number")
    return value


def _read_number(value: object, path: str) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise ValueError(f"{path}: {value!r} is not a number")
    return float(value)


def _require(condition: bool, path: str, problem: str) -> None:
    if not condition:
        raise ValueError(f"{path}: {problem}")

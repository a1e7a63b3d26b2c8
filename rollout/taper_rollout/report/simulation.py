"""`taper simulate`: would switching help this job? Recorded or synthetic stages, priced by a profile.

No cluster, no GPU, no engine: the policy's own simulator runs every static layout, the
switch rules, the predictor and the oracle on the same responses.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from taper_api import JobError
from taper_policy.decision.decide import DecisionSettings
from taper_policy.profile import estimated
from taper_policy.profile.file import read_profile
from taper_policy.profile.profile import Profile
from taper_policy.simulation import length_distributions as regimes
from taper_policy.simulation.comparison import ORACLE, PREDICTOR, Comparison, compare
from taper_policy.simulation.simulator import SimulatedRequest

PROFILES: Mapping[str, Callable[[], Profile]] = {
    "h100-8b": estimated.h100_8b,
    "a40-14b": estimated.a40_14b,
}
Stage = list[SimulatedRequest]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Synthetic:
    """Stages that are drawn: `stages` of `prompts` x `samples` requests of a regime of lengths."""

    regime: str
    stages: int
    prompts: int
    samples: int
    prompt_tokens: int
    max_tokens: int
    seed: int

    def draw(self) -> list[Stage]:
        """The stages. Raises `JobError` for sizes below 1 and an unknown regime."""
        for option in ("stages", "prompt_tokens"):
            if getattr(self, option) < 1:
                raise _bad_option(option, f"{getattr(self, option)} is not 1 or more")
        return [self._stage(step) for step in range(self.stages)]

    def _stage(self, step: int) -> Stage:
        try:
            drawn = regimes.lengths(
                self.regime,
                num_prompts=self.prompts,
                num_samples=self.samples,
                max_tokens=self.max_tokens,
                seed=self.seed * 1_000_003 + step,
            )
        except ValueError as error:
            name, _, message = str(error).partition(": ")
            raise _bad_option(name.removeprefix("num_"), message) from error
        return [
            SimulatedRequest(
                rid=f"{step}-{prompt}-{sample}",
                prompt=f"{step}-{prompt}",
                prompt_tokens=self.prompt_tokens,
                response_tokens=int(tokens),
            )
            for prompt, row in enumerate(drawn)
            for sample, tokens in enumerate(row)
        ]


def _bad_option(name: str, message: str) -> JobError:
    return JobError.at(f"--{name.replace('_', '-')}", message)


def load_profile(name: str) -> Profile:
    """A profile by the name of an estimated one, or from a file. Raises `JobError`."""
    if name in PROFILES:
        return PROFILES[name]()
    path = Path(name)
    if not path.exists():
        known = " or ".join(PROFILES)
        raise JobError.at("--profile", f"{name} does not exist; name a file, or use {known}")
    try:
        return read_profile(path, path=f"--profile {name}")
    except ValueError as error:
        where, _, what = str(error).partition(": ")
        raise JobError.at(where, what) from error


def read_traces(directory: Path) -> list[Stage]:
    """The stages that a run recorded in its `traces/`, in order. Raises `JobError` for a bad one."""
    inside = directory / "traces"
    files = sorted((inside if inside.is_dir() else directory).glob("stage-*.json"))
    if not files:
        raise JobError.at("--trace", f"{directory} has no stage-*.json")
    return [_read_stage(file) for file in files]


def _read_stage(file: Path) -> Stage:
    try:
        records = json.loads(file.read_text(encoding="utf-8"))["requests"]
        stage = [_request(record, f"{file.stem}-{index}") for index, record in enumerate(records)]
    except (KeyError, TypeError, ValueError) as error:
        message = f"{file.name} is not a recorded stage ({type(error).__name__}: {error})"
        raise JobError.at("--trace", message) from error
    if not stage:
        raise JobError.at("--trace", f"{file.name} has no request")
    return stage


def _request(record: Mapping[str, Any], rid: str) -> SimulatedRequest:
    tokens = {name: record[name] for name in ("prompt_tokens", "response_tokens")}
    for name, number in tokens.items():
        if not isinstance(number, int) or number < (name == "response_tokens"):
            raise ValueError(f"{name} of request {rid} is {number!r}")
    return SimulatedRequest(rid=rid, prompt=str(record["prompt"]), **tokens)


def simulate_job(
    stages: Sequence[Stage],
    profile: Profile,
    *,
    max_tokens: int | None = None,
    on_stage: Callable[[int], None] = lambda done: None,
) -> Comparison:
    """Simulate all policies on all stages. `max_tokens` is the longest allowed response, None if unknown.

    The longest response then stands for the cap: the forecast knows a little more than it would have.
    """
    longest = max(request.response_tokens for stage in stages for request in stage)
    return compare(
        stages,
        profile,
        DecisionSettings(degrees=profile.degrees),
        max_tokens=max_tokens or longest,
        on_stage=on_stage,
    )


def as_json(found: Comparison, *, title: str, profile: Profile) -> dict[str, Any]:
    """The comparison as it is written to a file: each arm's seconds by stage, and what follows from them."""
    best = found.best_static()
    return {
        "lengths": title,
        "profile": str(profile),
        "is_estimated": profile.is_estimated,
        "best_static": best,
        "arms": {
            policy: {
                "seconds": [float(value) for value in seconds],
                "switches": list(found.switches[policy]),
                "gain_over_best_static": dict(
                    zip(("mean", "low", "high"), found.gain_over(policy, best), strict=True)
                ),
                "regret_mean": float(found.regret(policy).mean()),
            }
            for policy, seconds in found.seconds.items()
        },
    }


def answer(found: Comparison) -> str:
    """Would it help? In a sentence."""
    best = found.best_static()
    gain, low, high = found.gain_over(PREDICTOR, best)
    possible, _, _ = found.gain_over(ORACLE, best)
    result = f"predictor against {best}, the best static layout: {gain:+.1%} [{low:+.1%}, {high:+.1%}]"
    verdict = "it would help" if low > 0 else "it would cost time" if high < 0 else "no clear difference"
    return f"{verdict}: {result}; the best plan with known lengths: {possible:+.1%}"

"""Results of the runs of `generation.py`: gains with intervals, a table, a plot. Pure except for the plot."""

from __future__ import annotations

import dataclasses
import itertools
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.table import Table

from parts.generation_policies import ORACLE, PREDICTOR
from taper_policy.arrays import FloatArray

RESAMPLES = 10_000
PANELS_A_ROW = 4


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One stage under one policy. `slowness` is that of the cores during it (`parts.core_speed`).

    `wide_share` is the share of its seconds in the widest layout.
    """

    regime: str
    requests: int
    repeat: int
    policy: str
    seconds: float
    slowness: float
    wide_share: float
    switches: Sequence[Mapping[str, Any]]
    review: Mapping[str, Any] | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """Mean share of a baseline's seconds that a policy saves, and its 95 % interval over the repeats."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, draws: FloatArray) -> Gain:
        """The first of `draws` is the estimate, the others are its bootstrap."""
        low, high = np.quantile(draws[1:], (0.025, 0.975))
        return cls(mean=float(draws[0]), low=float(low), high=float(high))

    def __str__(self) -> str:
        return f"{self.mean:+.1%} [{self.low:+.1%}, {self.high:+.1%}]"


def wide_share(record: Mapping[str, Any], degree: int) -> float:
    """The share of a stage's seconds that it spent in the layout of `degree`; `record` is the stage's."""
    switches = [switch for switch in record["switches"] if switch["outcome"] == "committed"]
    moments = [record["started_at"], *(switch["at"] for switch in switches), record["ended_at"]]
    degrees = [record["batch"][0]["degree"], *(switch["to_degree"] for switch in switches)]
    wide = sum(
        end - begin
        for one, (begin, end) in zip(degrees, itertools.pairwise(moments), strict=True)
        if one == degree
    )
    return float(wide / (moments[-1] - moments[0]))


class Stages:
    """The runs of one regime and size, by policy, repeat after repeat.

    Seconds are wall time. Two equal stages differ mostly by how slow the cores were during each;
    `gain_at_equal_speed` corrects for that. `probe_bias` is the share by which a wide layout itself slows
    the probe (`probe_bias.py`); it is subtracted first, because no neighbour causes it.
    """

    def __init__(self, runs: Sequence[Run], *, probe_bias: float = 0.0) -> None:
        self.runs, self._probe_bias = runs, probe_bias
        self.policies = list(dict.fromkeys(run.policy for run in runs))
        by_policy = {policy: sorted(self.of(policy), key=lambda run: run.repeat) for policy in self.policies}
        self.seconds = {
            policy: np.array([run.seconds for run in found]) for policy, found in by_policy.items()
        }
        self._slowness = {
            policy: np.array([self.slowness_of(run) for run in found]) for policy, found in by_policy.items()
        }

    def slowness_of(self, run: Run) -> float:
        """Slowness of the cores during the run, without the effect of its own layout on the probe."""
        return float(run.slowness / (1.0 + self._probe_bias) ** run.wide_share)

    def of(self, policy: str) -> list[Run]:
        """The runs of a policy."""
        return [run for run in self.runs if run.policy == policy]

    @property
    def best_static(self) -> str:
        """The static layout that takes least over all repeats."""
        return min(
            (a for a in self.policies if a.startswith("static")), key=lambda a: float(self.seconds[a].sum())
        )

    def gain(self, policy: str, baseline: str) -> Gain:
        """Paired over repeats, by the bootstrap: the mean of each repeat's share."""
        return Gain.of(self.gain_draws(policy, baseline))

    def gain_draws(self, policy: str, baseline: str, seed: int = 0) -> FloatArray:
        """The gain, then its `RESAMPLES` draws."""
        shares = 1.0 - self.seconds[policy] / self.seconds[baseline]
        draws: FloatArray = shares[_picks(len(shares), seed)].mean(axis=1)
        return draws

    def gain_at_equal_speed(self, policy: str, baseline: str) -> Gain:
        """`gain`, had the cores been equally fast under both policies: an analysis of covariance.

        Logarithms of seconds are taken to be a policy's, plus a repeat's, plus a slope times the logarithm of
        the slowness, with the slope that fits all policies best. The bootstrap draws repeats and fits again.
        """
        return Gain.of(self.equal_speed_draws(policy, baseline))

    def equal_speed_draws(self, policy: str, baseline: str, seed: int = 0) -> FloatArray:
        """The gain at equal speed, then its `RESAMPLES` draws."""
        seconds, slowness = (
            np.log([values[one] for one in (policy, baseline, *self.policies)])
            for values in (self.seconds, self._slowness)
        )
        picks = _picks(seconds.shape[1], seed)
        x, y = _centred(slowness[2:, picks]), _centred(seconds[2:, picks])
        squares = (x * x).sum(axis=(0, 2))
        slope = np.divide((x * y).sum(axis=(0, 2)), squares, out=np.zeros(len(picks)), where=squares > 1e-12)
        saved = (seconds[1] - seconds[0])[picks].mean(axis=1)
        by_luck = slope * (slowness[1] - slowness[0])[picks].mean(axis=1)
        draws: FloatArray = 1.0 - np.exp(by_luck - saved)
        return draws

    def slowness(self, policy: str) -> float:
        """Mean slowness of the cores during the policy's stages, relative to the best static layout's."""
        return float(self._slowness[policy].mean() / self._slowness[self.best_static].mean())

    @property
    def title(self) -> str:
        """The regime and the size."""
        return f"{self.runs[0].regime}, {self.runs[0].requests} requests"

    def as_json(self) -> dict[str, Any]:
        """Figures by policy, and all runs."""
        best = self.best_static
        return {
            "best_static": best,
            "arms": {
                policy: {
                    "seconds_mean": float(self.seconds[policy].mean()),
                    "gain_over_best_static": dataclasses.asdict(self.gain(policy, best)),
                    "gain_at_equal_speed": dataclasses.asdict(self.gain_at_equal_speed(policy, best)),
                    "slowness_of_the_cores": self.slowness(policy),
                    "gain_over_oracles_plan": dataclasses.asdict(self.gain(policy, ORACLE)),
                    "switches_per_stage": statistics.fmean(len(run.switches) for run in self.of(policy)),
                }
                for policy in self.policies
            },
            "share_of_oracle": self.share_of_oracle(),
            "runs": [dataclasses.asdict(run) for run in self.runs],
        }

    def share_of_oracle(self) -> float | None:
        """The predictor's mean gain over the best static layout as a share of the oracle's."""
        possible = self.gain(ORACLE, self.best_static).mean
        return self.gain(PREDICTOR, self.best_static).mean / possible if possible > 0 else None


def read_stages(file: Path) -> Stages:
    """The stages of a case, from the file that `generation.py` writes."""
    content = json.loads(file.read_text(encoding="utf-8"))
    return Stages(
        [Run(**run) for run in content["runs"]], probe_bias=float(content["settings"]["probe_bias"])
    )


def _errorbars(panel: Any, gains: Sequence[Gain], at: FloatArray, *, color: str, label: str) -> None:
    means = np.array([100 * gain.mean for gain in gains])
    spread = np.array([[100 * (g.mean - g.low), 100 * (g.high - g.mean)] for g in gains]).T
    panel.errorbar(means, at, xerr=spread, fmt="o", markersize=4, capsize=3, color=color, label=label)


def _picks(repeats: int, seed: int) -> npt.NDArray[np.int64]:
    """All repeats, then `RESAMPLES` times as many drawn from them."""
    drawn = np.random.default_rng(seed).integers(repeats, size=(RESAMPLES, repeats))
    return np.concatenate([np.arange(repeats)[None], drawn])


def _centred(values: FloatArray) -> FloatArray:
    """`values` [policies, resamples, repeats] less the mean of each policy and of each repeat."""
    means = values.mean(axis=0, keepdims=True) + values.mean(axis=2, keepdims=True)
    centred: FloatArray = values - means + values.mean(axis=(0, 2), keepdims=True)
    return centred


def table(stages: Stages) -> Table:
    """A row for each policy."""
    best = stages.best_static
    repeats = len(stages.seconds[best])
    made = Table(
        title=f"{stages.title}, {repeats} repeats; gain over {best}, the best static layout",
        title_justify="left",
    )
    for name in (
        "policy",
        "seconds",
        "switches",
        "gain [95 %]",
        "at equal speed of the cores",
        "against the oracle's plan",
        "cores' slowness",
    ):
        made.add_column(name, justify="left" if name == "policy" else "right")
    for policy in stages.policies:
        made.add_row(
            policy,
            f"{stages.seconds[policy].mean():.2f}",
            f"{statistics.fmean(len(run.switches) for run in stages.of(policy)):.1f}",
            "" if policy == best else str(stages.gain(policy, best)),
            "" if policy == best else str(stages.gain_at_equal_speed(policy, best)),
            "" if policy == ORACLE else str(stages.gain(policy, ORACLE)),
            f"{stages.slowness(policy):.2f}",
        )
    return made


def over_cases(found: Sequence[Stages]) -> Table:
    """Mean gains over each case's best static layout, for the policies that all cases have."""
    repeats = sum(len(stages.seconds[stages.best_static]) for stages in found)
    made = Table(
        title=f"mean of {len(found)} cases, {repeats} repeats; gain over the best static layout of each",
        title_justify="left",
    )
    for name in ("policy", "gain [95 %]", "at equal speed of the cores"):
        made.add_column(name, justify="left" if name == "policy" else "right")
    for policy in rows(found):
        if all(policy in stages.policies for stages in found):
            both = [
                [
                    stages.gain_draws(policy, stages.best_static, seed),
                    stages.equal_speed_draws(policy, stages.best_static, seed),
                ]
                for seed, stages in enumerate(found)
            ]
            clock, equal = np.mean(both, axis=0)
            made.add_row(policy, str(Gain.of(clock)), str(Gain.of(equal)))
    return made


def rows(found: Sequence[Stages]) -> list[str]:
    """The policies of all cases, which may differ: static layouts, rules, the predictor, the best plan."""
    policies = {policy for stages in found for policy in stages.policies}
    last = [policy for policy in (PREDICTOR, ORACLE) if policy in policies]
    static = sorted(policy for policy in policies if policy.startswith("static"))
    return [*static, *sorted(policies - {*static, *last}, key=lambda policy: (len(policy), policy)), *last]


def plot(found: Sequence[Stages], file: Path) -> None:
    """Gains over the best static layout, both ways, with their intervals: a panel for each case."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    places = {policy: -index for index, policy in enumerate(rows(found))}
    lines = -(-len(found) // PANELS_A_ROW)
    columns = -(-len(found) // lines)
    figure, panels = plt.subplots(
        lines, columns, figsize=(1.5 + 3.2 * columns, 3.0 * lines), sharex=True, sharey=True, squeeze=False
    )
    for panel, stages in zip(panels.flat, found, strict=False):
        at = np.array([places[policy] for policy in stages.policies])
        for gains, offset, color, label in (
            (stages.gain, -0.15, "#b0b0b0", "wall time"),
            (stages.gain_at_equal_speed, 0.15, "#1f5f8b", "at equal speed of the cores"),
        ):
            _errorbars(
                panel,
                [gains(policy, stages.best_static) for policy in stages.policies],
                at + offset,
                color=color,
                label=label,
            )
        panel.axvline(0, color="grey", linewidth=0.8)
        panel.set_yticks(list(places.values()), list(places))
        panel.set_title(stages.title, fontsize=9)
        panel.tick_params(labelbottom=True)
        panel.set_xlabel(f"gain over {stages.best_static}, %", fontsize=8)
    for panel in panels.flat[len(found) :]:
        panel.set_visible(False)
    figure.legend(*panels.flat[0].get_legend_handles_labels(), loc="upper center", ncols=2, fontsize=8)
    figure.tight_layout(rect=(0.0, 0.0, 1.0, 1.0 - 0.25 / (3.0 * lines)))
    figure.savefig(file, dpi=150)
    plt.close(figure)

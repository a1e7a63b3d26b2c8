"""The plot of stages: running requests, layouts as coloured bands, and the switches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from taper_rollout.events import StageRecord, SwitchRecord
from taper_rollout.report.stage_figures import layout_text

DOTS_PER_INCH = 130
BANDS = {1: "#eef1f4", 2: "#fde3b8", 4: "#fbbf8a", 8: "#f2906b"}
LINE, PAUSE, MUTED = "#1f5a8c", "#b3261e", "#5f6b76"


def plot_stages(stages: Sequence[StageRecord], path: Path) -> None:
    """Write a PNG with a panel for each stage."""
    num_columns = min(3, len(stages))
    num_rows = math.ceil(len(stages) / num_columns)
    figure = Figure(figsize=(4.6 * num_columns, 2.7 * num_rows + 0.7), layout="constrained")
    panels = figure.subplots(num_rows, num_columns, squeeze=False, sharey=True).flatten()
    for panel, stage in zip(panels, stages, strict=False):
        _draw(panel, stage)
    for panel in panels[len(stages) :]:
        panel.set_visible(False)
    for index, panel in enumerate(panels[: len(stages)]):
        if index % num_columns == 0:
            panel.set_ylabel("running requests", color=MUTED)
        if index + num_columns >= len(stages):
            panel.set_xlabel("seconds since the stage started", color=MUTED)
    figure.legend(handles=_legend(stages), loc="outside upper center", ncols=6, frameon=False, fontsize=9)
    figure.savefig(path, dpi=DOTS_PER_INCH, format="png")


def bands(stage: StageRecord) -> list[tuple[float, float, int]]:
    """(start, end, degree) of each time span in one layout, in seconds since the stage began."""
    changes = [(sample.at - stage.started_at, sample.degree) for sample in stage.batch]
    spans: list[tuple[float, float, int]] = []
    for at, degree in changes:
        if not spans:
            spans.append((0.0, at, degree))
        elif spans[-1][2] != degree:
            spans[-1] = (spans[-1][0], at, spans[-1][2])
            spans.append((at, at, degree))
    if spans:
        spans[-1] = (spans[-1][0], stage.generation_seconds, spans[-1][2])
    return spans


def _draw(panel: Axes, stage: StageRecord) -> None:
    for begin, end, degree in bands(stage):
        panel.axvspan(begin, end, color=BANDS[degree], linewidth=0, zorder=0)
    times = [*(sample.at - stage.started_at for sample in stage.batch), stage.generation_seconds]
    running = [*(sum(sample.running) for sample in stage.batch), 0]
    panel.fill_between(times, running, step="post", color=LINE, alpha=0.12, linewidth=0, zorder=2)
    panel.step(times, running, where="post", color=LINE, linewidth=1.6, zorder=3)
    for switch in stage.committed():
        _mark(panel, switch, stage)
    panel.set_xlim(0, max(stage.generation_seconds, 1e-3))
    panel.set_ylim(bottom=0)
    style_panel(panel, f"step {stage.step} · replica {stage.replica} · {stage.generation_seconds:.1f} s")


def style_panel(panel: Axes, title: str) -> None:
    """Set the title and mute what is not data."""
    panel.set_title(title, fontsize=10, loc="left")
    panel.tick_params(labelsize=8, colors=MUTED)
    panel.spines[["top", "right"]].set_visible(False)


def _mark(panel: Axes, switch: SwitchRecord, stage: StageRecord) -> None:
    """A line at the time of the switch, with its gain."""
    at = switch.at - stage.started_at
    panel.axvline(at, color=PAUSE, linewidth=1.1, linestyle=(0, (4, 2)), zorder=4)
    text = f"TP{switch.from_degree}→{switch.to_degree}"
    if switch.gain_seconds is not None:
        text += f"\n{switch.gain_seconds:+.2f} s gain"
    is_late = at > 0.6 * stage.generation_seconds
    panel.annotate(
        text,
        (at, 0.97),
        xycoords=("data", "axes fraction"),
        xytext=(-4 if is_late else 4, 0),
        textcoords="offset points",
        ha="right" if is_late else "left",
        va="top",
        fontsize=8,
        color=PAUSE,
        bbox={"facecolor": "white", "alpha": 0.6, "linewidth": 0, "pad": 1.5},
        zorder=5,
    )


def _legend(stages: Sequence[StageRecord]) -> list[Line2D | Patch]:
    degrees = sorted({degree for stage in stages for _, _, degree in bands(stage)})
    num_ranks = max(stage.num_ranks for stage in stages)
    handles: list[Line2D | Patch] = [Line2D([], [], color=LINE, linewidth=1.6, label="running requests")]
    handles += [Patch(color=BANDS[degree], label=layout_text(num_ranks, degree)) for degree in degrees]
    handles.append(Line2D([], [], color=PAUSE, linewidth=1.1, linestyle=(0, (4, 2)), label="switch"))
    return handles

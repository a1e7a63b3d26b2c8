"""The plot of a profile: step time over batch size, at the shortest and the longest context."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from taper_policy.profile.profile import Profile
from taper_rollout.report.plot import DOTS_PER_INCH, MUTED, style_panel

LINES = {1: "#1f5a8c", 2: "#d98a1f", 4: "#b3261e", 8: "#5b3a8c"}
ALL_BUSY = (0, (2, 1.5))


def plot_profile(profile: Profile, path: Path) -> None:
    """Write a PNG with a panel each for the shortest and longest context; bars: 95 % intervals of medians."""
    contexts = sorted({cell.context_tokens for cell in profile.cells})
    shown = contexts if len(contexts) < 2 else [contexts[0], contexts[-1]]
    figure = Figure(figsize=(4.8 * len(shown), 3.9), layout="constrained")
    panels = figure.subplots(1, len(shown), squeeze=False, sharey=True).flatten()
    for panel, context in zip(panels, shown, strict=True):
        _draw(panel, profile, context)
    panels[0].set_ylabel("decode step, ms", color=MUTED)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4, frameon=False, fontsize=9)
    figure.supxlabel(str(profile), fontsize=7, color=MUTED)
    figure.savefig(path, dpi=DOTS_PER_INCH, format="png")


def _draw(panel: Axes, profile: Profile, context: int) -> None:
    cells = [cell for cell in profile.cells if cell.context_tokens == context]
    for degree, busy in sorted({(cell.degree, cell.busy_groups) for cell in cells}):
        line = [cell for cell in cells if (cell.degree, cell.busy_groups) == (degree, busy)]
        panel.errorbar(
            [cell.batch for cell in line],
            [cell.seconds * 1e3 for cell in line],
            yerr=[cell.half_width_seconds * 1e3 for cell in line],
            color=LINES[degree],
            linestyle="solid" if busy == 1 else ALL_BUSY,
            linewidth=1.5,
            marker="o",
            markersize=3,
            capsize=2,
            label=f"TP{degree}" + ("" if busy == 1 else f", {busy} groups busy"),
        )
    batches = sorted({cell.batch for cell in cells})
    panel.set_xscale("log", base=2)
    panel.set_xticks(batches, [str(batch) for batch in batches])
    panel.minorticks_off()
    panel.set_ylim(bottom=0)
    panel.set_xlabel("requests per group", color=MUTED)
    style_panel(panel, f"context of {context} tokens")

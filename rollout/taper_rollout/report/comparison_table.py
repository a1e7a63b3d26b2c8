"""The table that `taper simulate` ends with."""

from __future__ import annotations

import numpy as np
from rich.table import Table

from taper_policy.simulation.comparison import Comparison


def comparison_table(found: Comparison, *, title: str) -> Table:
    """A row an arm, fastest first: gain over the best static layout and regret against the oracle, in %."""
    best = found.best_static()
    table = Table(title=title, title_justify="left", caption=f"* best static layout: {best}")
    table.add_column("layout or rule", no_wrap=True)
    for name in ("seconds", "gain %", "95 %", "regret %", "p95", "moves"):
        table.add_column(name, justify="right", no_wrap=True)
    for arm in sorted(found.seconds, key=lambda arm: float(found.seconds[arm].sum())):
        gain, low, high = (100 * share for share in found.gain_over(arm, best))
        regret = 100 * found.regret(arm)
        table.add_row(
            f"{arm} *" if arm == best else arm,
            f"{found.seconds[arm].sum():.1f}",
            "" if arm == best else f"{gain:+.1f}",
            "" if arm == best else f"{low:+.1f}..{high:+.1f}",
            f"{regret.mean():.1f}",
            f"{np.quantile(regret, 0.95):.1f}",
            f"{np.mean(found.switches[arm]):.1f}",
        )
    return table

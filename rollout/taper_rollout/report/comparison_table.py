"""The table that `taper simulate` ends with."""

from __future__ import annotations

import numpy as np
from rich.table import Table

from taper_policy.simulation.comparison import Comparison


def comparison_table(comparison: Comparison, *, title: str) -> Table:
    """A row per policy, fastest first: gain over the best static layout, regret against the oracle."""
    best = comparison.best_static()
    table = Table(title=title, title_justify="left", caption=f"* best static layout: {best}")
    table.add_column("policy", no_wrap=True)
    for name in ("seconds", "gain %", "95 % CI", "regret %", "p95", "switches"):
        table.add_column(name, justify="right", no_wrap=True)
    for policy in sorted(comparison.seconds, key=lambda policy: float(comparison.seconds[policy].sum())):
        gain, low, high = (100 * share for share in comparison.gain_over(policy, best))
        regret = 100 * comparison.regret(policy)
        table.add_row(
            f"{policy} *" if policy == best else policy,
            f"{comparison.seconds[policy].sum():.1f}",
            "" if policy == best else f"{gain:+.1f}",
            "" if policy == best else f"{low:+.1f}..{high:+.1f}",
            f"{regret.mean():.1f}",
            f"{np.quantile(regret, 0.95):.1f}",
            f"{np.mean(comparison.switches[policy]):.1f}",
        )
    return table

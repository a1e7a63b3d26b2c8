"""The tables that `taper profile` ends with."""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table

from taper_policy.profile.profile import Profile

MEBIBYTE = 1 << 20


def profile_tables(profile: Profile) -> Iterator[Table]:
    """Decode steps, prefills and switches."""
    yield _steps(profile)
    yield _prefills(profile)
    if profile.switch:
        yield _switches(profile)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    for name in columns:
        table.add_column(name, justify="right")
    return table


def _steps(profile: Profile) -> Table:
    """Milliseconds of a decode step at the shortest and the longest context; a row per batch size."""
    contexts = sorted({cell.context_tokens for cell in profile.cells})
    span = f"{contexts[0]} to {contexts[-1]}" if len(contexts) > 1 else f"{contexts[0]}"
    groups = sorted({(cell.degree, cell.busy_groups) for cell in profile.cells})
    names = [f"TP{degree}, {busy} group{'' if busy == 1 else 's'} busy" for degree, busy in groups]
    table = _table(f"Decode step, ms, for contexts of {span} tokens", "requests per group", *names)
    cells = {cell.place: cell for cell in profile.cells}
    for batch in sorted({cell.batch for cell in profile.cells}):
        row = []
        for degree, busy in groups:
            line = [cells.get((degree, busy, batch, context)) for context in contexts]
            known = [cell for cell in line if cell is not None]
            ends = known if len(known) < 2 else [known[0], known[-1]]
            row.append(" to ".join(f"{cell.seconds * 1e3:.1f}" for cell in ends))
        table.add_row(str(batch), *row)
    return table


def _prefills(profile: Profile) -> Table:
    table = _table("Prefill", "degree", "fixed, ms", "tokens per second", "held-out error p90")
    for degree, terms in sorted(profile.prefill.items()):
        table.add_row(
            f"TP{degree}",
            f"{terms.fixed_seconds * 1e3:.1f}",
            f"{1 / terms.token_seconds:,.0f}",
            f"{terms.relative_error_p90:.0%}",
        )
    return table


def _switches(profile: Profile) -> Table:
    """The terms of a switch's pause. Narrow enough for a terminal of 80 columns."""
    table = _table(
        "Pause of a switch, ms",
        "switch",
        "fixed",
        "per request",
        "if KV moves",
        "per moved request",
        "per MiB of KV",
        "per recomputed token",
        "held-out error p90",
    )
    for (one, two), terms in sorted(profile.switch.items()):
        table.add_row(
            f"TP{one}→TP{two}",
            f"{terms.fixed_seconds * 1e3:.1f}",
            f"{terms.request_seconds * 1e3:.2f}",
            f"{terms.exchange_seconds * 1e3:.1f}",
            f"{terms.migrated_request_seconds * 1e3:.2f}",
            f"{terms.byte_seconds * MEBIBYTE * 1e3:.3f}",
            f"{terms.recomputed_token_seconds * 1e3:.3f}",
            f"{terms.relative_error_p90:.0%}",
        )
    return table

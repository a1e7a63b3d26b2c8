"""Generates the page of the docs about what is supported, from the table that jobs are checked against."""

from __future__ import annotations

from taper_rollout.job.support_matrix import MATRIX

_HEAD = """\
# Support matrix

<!-- Made by `make docs` from taper_rollout.job.support_matrix; do not edit. -->

A job is checked against this table when it starts. Anything unsupported is an error that
names the field and says what is supported.

| feature | supported | checked in | otherwise |
|---|---|---|---|
"""


def support_page() -> str:
    """The whole page, as Markdown."""
    rows = (f"| {row.feature} | {row.supported} | {row.seen_in} | {row.remedy} |\n" for row in MATRIX)
    return _HEAD + "".join(rows)

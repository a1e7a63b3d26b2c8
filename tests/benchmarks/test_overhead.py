"""`benchmarks/overhead.py` as far as it needs no engine: its arguments, and the shares from its blocks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def overhead() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        import overhead

        return overhead


def test_arguments_are_parsed(overhead: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["--model", "71M", "--stages", "2", "--times", "8", "--output", "out"]
    monkeypatch.setattr("sys.argv", ["overhead.py", *arguments])
    options = overhead._options()
    assert (options.model, options.stages, options.times, options.output) == ("71M", 2, 8.0, Path("out"))
    assert (options.requests % overhead.SAMPLES, options.profile) == (0, None)
    assert options.model in overhead.SHAPES


def test_the_share_of_a_reported_block_is_over_its_neighbours(
    overhead: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overhead.os, "cpu_count", lambda: 2)
    rows = np.array([(1.0, 0.1), (1.2, 0.3), (1.4, 0.1), (1.26, 0.5), (1.0, 0.3)])
    shares = overhead.shares_of(rows, reported_first=False)
    assert shares == pytest.approx(np.array([(0.0, 0.1), (0.05, 0.15)]))
    # The first block has no neighbour before it, and the last one none after it.
    assert overhead.shares_of(rows, reported_first=True) == pytest.approx(np.array([(1.4 / 1.23 - 1, -0.15)]))
    assert overhead.shares_of(rows[:2], reported_first=False).shape == (0, 2)


def test_the_report_has_means_and_intervals(overhead: Any) -> None:
    found = overhead.report(np.array([(0.01, 0.2), (0.03, 0.2)]))
    assert (found["clock_share_mean"], found["cores_share_mean"]) == pytest.approx((0.02, 0.2))
    assert found["clock_share_low"] == pytest.approx(0.01)
    assert found["clock_share_high"] == pytest.approx(0.03)


def test_events_are_posted_while_reporting_is_on(overhead: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    posted: list[Any] = []

    class Actor:
        """A fake handle: `post.remote` and `turn.remote` list what they get."""

        @property
        def post(self) -> Any:
            return self

        def remote(self, event: Any) -> None:
            posted.append(event)

    reporter = overhead.EventReporter(Actor(), Actor(), None)
    event = overhead.StageProgress(replica=0, step=1, running=3, finished=0, degree=1, num_ranks=2)
    reporter(event)
    assert posted == []
    reporter.is_on = True
    reporter(event)
    assert posted == [event, event]  # to the run, and to the metrics
    assert reporter.num_posts == 1

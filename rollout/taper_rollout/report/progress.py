"""What a user sees during a run.

On a terminal two bars: the run's steps, and the current generation stage with its running requests and
layouts. Elsewhere plain lines: one per step, and one per switch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as ProgressBars

from taper_rollout.events import (
    Calibration,
    Event,
    EventsLost,
    MetricsServed,
    Resumed,
    StageProgress,
    StageRecord,
    Step,
    SwitchRecord,
    Waiting,
)
from taper_rollout.report.stage_figures import StageFigures, layout_text
from taper_rollout.report.summary import step_line


class ProgressDisplay:
    """Shows events as they arrive. Use as a context, so that the terminal is restored."""

    def __init__(self, console: Console, *, num_steps: int, num_responses: int) -> None:
        """`num_steps` of the whole run, `num_responses` of one generation stage over all replicas."""
        self._console = console
        self._num_steps = num_steps
        self._stages = StageFigures()
        self._progress: dict[int, StageProgress] = {}
        self._bars = ProgressBars(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._steps_bar = self._bars.add_task("steps", total=num_steps, note="starting")
        self._stage_bar = self._bars.add_task("responses", total=num_responses, note="")

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def show(self, events: Iterable[Event]) -> None:
        """Update the display."""
        for event in events:
            match event:
                case StageProgress():
                    self._show_progress(event)
                case StageRecord():
                    self._end_stage(event)
                case Step():
                    self._show_step(event)
                case Resumed():
                    self._bars.update(self._steps_bar, completed=event.step)
                    self._print(resumed_text(event))
                case Calibration():
                    self._print(calibration_text(event))
                case MetricsServed():
                    self._print(metrics_text(event))
                case Waiting():
                    self._print(event.text)
                case EventsLost():
                    self._print(f"{event.count} events were lost: some figures of this run are too low")

    def _print(self, text: str) -> None:
        self._console.print(text, highlight=False, soft_wrap=True)

    def _show_progress(self, progress: StageProgress) -> None:
        if progress.replica not in self._progress:
            self._bars.reset(self._stage_bar)
        self._progress[progress.replica] = progress
        replicas = [self._progress[replica] for replica in sorted(self._progress)]
        running = sum(each.running for each in replicas)
        layouts = ", ".join(layout_text(each.num_ranks, each.degree) for each in replicas)
        finished = sum(each.finished for each in replicas)
        self._bars.update(self._stage_bar, completed=finished, note=f"{running} running in {layouts}")

    def _end_stage(self, stage: StageRecord) -> None:
        self._stages.add(stage)
        self._progress.pop(stage.replica, None)
        for switch in stage.committed():
            self._print(switch_text(switch, stage.num_ranks))
        if not self._progress:
            finished = len(self._stages.lengths)
            self._bars.update(self._stage_bar, completed=finished, note="generated; training")

    def _show_step(self, step: Step) -> None:
        line = step_line(step.step, step.metrics, self._stages)
        self._stages = StageFigures()
        reward = "" if line["reward"] is None else f"reward {line['reward']:.3f}"
        self._bars.update(self._steps_bar, completed=step.step, note=reward)
        self._print(step_text(line, self._num_steps))


def step_text(line: Mapping[str, Any], num_steps: int) -> str:
    """A finished step in a line of up to 100 columns. `line`: as in `metrics.jsonl`."""
    parts = [f"step {line['step']}/{num_steps}"]
    if line["reward"] is not None:
        parts.append(f"reward {line['reward']:.3f}")
    parts.append(f"generation {line['generation_seconds']:.1f} s")
    if line["responses"]:
        median, longest = line["response_tokens_median"], line["response_tokens_longest"]
        parts.append(f"median {median:.0f}, max {longest} tokens")
    switches = f"{line['switches']} switch{'' if line['switches'] == 1 else 'es'}"
    if line["gain_seconds"] is not None:
        switches += f", gain {line['gain_seconds']:+.2f} s"
    return "  ".join([*parts, switches])


def switch_text(switch: SwitchRecord, num_ranks: int) -> str:
    """A committed switch in one line."""
    before, after = (layout_text(num_ranks, degree) for degree in (switch.from_degree, switch.to_degree))
    gain = "" if switch.gain_seconds is None else f", gain {switch.gain_seconds:+.2f} s"
    pause = f"pause {switch.pause_seconds * 1000:.0f} ms"
    live = f"{switch.live_requests} request{'' if switch.live_requests == 1 else 's'}"
    return f"  switch {before} → {after} with {live} running: {pause}{gain}"


def resumed_text(event: Resumed) -> str:
    """The checkpoints that were skipped, and the one that the run continues from, a line each."""
    lines = [f"skipping checkpoint {each.directory}, which {each.reason}" for each in event.passed_over]
    if event.directory is None:
        lines.append("no complete checkpoint: training starts from the beginning")
    else:
        lines.append(f"resuming after step {event.step} from {event.directory}")
    return "\n".join(lines)


def metrics_text(event: MetricsServed) -> str:
    """Where metrics can be read."""
    place = "" if event.node is None else f" on {event.node}"
    return f"metrics: {event.url}{place}"


def calibration_text(event: Calibration) -> str:
    """The decode steps that a replica measured at its start, a line per batch size.

    Batch sizes that were not measured in every degree are left out.
    """
    cells = {(step.batch, step.degree): step.seconds for step in event.step_seconds}
    degrees = sorted({degree for _, degree in cells})
    batches = sorted({batch for batch, _ in cells})
    return "\n".join(
        f"replica {event.replica}: decode step at batch {batch}: "
        + _degrees_text({degree: cells[batch, degree] for degree in degrees})
        for batch in batches
        if all((batch, degree) in cells for degree in degrees)
    )


def _degrees_text(seconds: Mapping[int, float]) -> str:
    """Decode steps by degree, each compared with that of the first degree."""
    (first, base), *others = seconds.items()
    parts = [f"TP{first} {base * 1000:.1f} ms"]
    parts += [
        f"TP{degree} {value * 1000:.1f} ms ({value / base:.2f} of TP{first}'s)" for degree, value in others
    ]
    return ", ".join(parts)

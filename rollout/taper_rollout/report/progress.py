"""What a user sees while a run is under way.

On a terminal two bars: the run's steps, and the present generation stage with its running
requests and layouts. Elsewhere plain lines: one a step, and one a switch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from taper_rollout.report.stages import committed, layout_text
from taper_rollout.report.summary import step_line


class ProgressDisplay:
    """Shows events as they come. Use as a context, so that the terminal is left in order."""

    def __init__(self, console: Console, *, num_steps: int, num_responses: int) -> None:
        """`num_steps` of the whole run, `num_responses` of one generation stage over all replicas."""
        self._console = console
        self._num_steps = num_steps
        self._stages: list[Mapping[str, Any]] = []
        self._glances: dict[int, Mapping[str, Any]] = {}
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._steps = self._bars.add_task("steps", total=num_steps, note="starting")
        self._stage = self._bars.add_task("generation", total=num_responses, note="")

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def show(self, events: Iterable[Mapping[str, Any]]) -> None:
        """Update the display."""
        for event in events:
            match event["kind"]:
                case "StageProgress":
                    self._show_stage(event)
                case "StageRecord":
                    self._end_stage(event)
                case "Step":
                    self._show_step(event)
                case "Calibration":
                    self._print(calibration_text(event))
                case "MetricsServed":
                    self._print(metrics_text(event))
                case "Waiting":
                    self._print(event["text"])
                case "Resumed":
                    self._show_resumed(event)
                case "EventsLost":
                    self._print(f"{event['count']} events of the run were lost")

    def _print(self, text: str) -> None:
        self._console.print(text, highlight=False, soft_wrap=True)

    def _show_resumed(self, event: Mapping[str, Any]) -> None:
        self._bars.update(self._steps, completed=event["step"])
        self._print(resumed_text(event))

    def _show_stage(self, glance: Mapping[str, Any]) -> None:
        if glance["replica"] not in self._glances:
            self._bars.reset(self._stage)
        self._glances[glance["replica"]] = glance
        glances = self._glances.values()
        running = sum(item["running"] for item in glances)
        layouts = ", ".join(
            layout_text(item["num_ranks"], item["degree"]) for _, item in sorted(self._glances.items())
        )
        finished = sum(item["finished"] for item in glances)
        self._bars.update(self._stage, completed=finished, note=f"{running} running in {layouts}")

    def _end_stage(self, stage: Mapping[str, Any]) -> None:
        self._stages.append(stage)
        self._glances.pop(stage["replica"], None)
        for switch in committed([stage]):
            self._print(switch_text(switch, stage["num_ranks"]))
        if not self._glances:
            finished = sum(len(done["requests"]) for done in self._stages)
            self._bars.update(self._stage, completed=finished, note="done; training")

    def _show_step(self, event: Mapping[str, Any]) -> None:
        line = step_line(event["step"], event["metrics"], self._stages)
        self._stages.clear()
        reward = "" if line["reward"] is None else f"reward {line['reward']:.3f}"
        self._bars.update(self._steps, completed=event["step"], note=reward)
        self._print(step_text(line, self._num_steps))


def step_text(line: Mapping[str, Any], num_steps: int) -> str:
    """A finished step in one line; `line` is that of `metrics.jsonl`."""
    parts = [f"step {line['step']}/{num_steps}"]
    if line["reward"] is not None:
        parts.append(f"reward {line['reward']:.3f}")
    parts.append(f"generation {line['generation_seconds']:.1f} s")
    if line["responses"]:
        median, longest = line["response_tokens_median"], line["response_tokens_longest"]
        parts.append(f"tokens median {median:.0f}, longest {longest}")
    switches = f"{line['switches']} switch{'' if line['switches'] == 1 else 'es'}"
    if line["gain_seconds"] is not None:
        switches += f" (gain {line['gain_seconds']:+.2f} s)"
    return "  ".join([*parts, switches])


def switch_text(switch: Mapping[str, Any], num_ranks: int) -> str:
    """A switch that took place, in one line."""
    before, after = (layout_text(num_ranks, switch[name]) for name in ("from_degree", "to_degree"))
    gain = "" if switch["gain_seconds"] is None else f", gain {switch['gain_seconds']:+.2f} s"
    pause = f"pause {switch['pause_seconds'] * 1000:.0f} ms"
    live = f"{switch['live_requests']} request{'' if switch['live_requests'] == 1 else 's'}"
    return f"  switch {before} → {after} with {live} running: {pause}{gain}"


def resumed_text(event: Mapping[str, Any]) -> str:
    """Where the run goes on from, and which newer checkpoints it does not, a line each."""
    lines = [f"checkpoint {each['directory']} {each['reason']}" for each in event["passed_over"]]
    if event["directory"] is None:
        lines.append("no checkpoint to go on from: training begins anew")
    else:
        lines.append(f"goes on from step {event['step']}: {event['directory']}")
    return "\n".join(lines)


def metrics_text(event: Mapping[str, Any]) -> str:
    """Where metrics can be read; `node` is the node's address where the run has several."""
    place = "" if event["node"] is None else f" on {event['node']}"
    return f"metrics: {event['url']}{place}"


def calibration_text(event: Mapping[str, Any]) -> str:
    """The decode steps that a replica measured at its start, a line a batch size.

    `step_seconds` has a cell a degree and batch; a batch that not every degree was measured at is left out.
    """
    cells = {(cell["batch"], cell["degree"]): cell["seconds"] for cell in event["step_seconds"]}
    degrees = sorted({degree for _, degree in cells})
    lines = []
    for batch in sorted({batch for batch, _ in cells}):
        if not all((batch, degree) in cells for degree in degrees):
            continue
        base = cells[batch, degrees[0]]
        steps = [f"TP{degrees[0]} {base * 1000:.1f} ms"]
        for degree in degrees[1:]:
            seconds = cells[batch, degree]
            steps.append(f"TP{degree} {seconds * 1000:.1f} ms ({seconds / base:.2f} of TP{degrees[0]}'s)")
        lines.append(f"replica {event['replica']}: decode step at batch {batch}: {', '.join(steps)}")
    return "\n".join(lines)

"""Explains from the ledger, in words, why each switch happened or did not. Pure.

By default each stage shows its switches or, if there was none, the decision that came closest to one. In
full it shows every decision with all layouts, and the correction of the profile. Seconds are to the end of
the stage, with their 80 % interval.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from taper_policy.decision.correction import Correction
from taper_policy.decision.ledger import DecisionEntry, FirstLayoutEntry, SwitchOutcomeEntry
from taper_policy.decision.pricing import Choice
from taper_policy.review.replica_history import ReplicaHistory, StageHistory


def explain(
    histories: Iterable[ReplicaHistory], *, step: int | None, replica: int | None, in_full: bool
) -> Iterator[str]:
    """Lines of text, one paragraph per stage; only of `step` and `replica` if given."""
    for history in histories:
        if replica is not None and history.replica != replica:
            continue
        for stage in history.stages():
            if step is None or stage.step == step:
                yield from _stage(history, stage, in_full=in_full)
                yield ""


def _stage(history: ReplicaHistory, stage: StageHistory, *, in_full: bool) -> Iterator[str]:
    made = [one.switch for one in stage.outcomes.values() if one.switch["outcome"] == "committed"]
    counts = [_count(len(stage.decisions), "decision"), _count(len(made), "switch")]
    if not stage.has_ended:
        counts.append("interrupted")
    yield f"step {stage.step}, replica {history.replica}: {', '.join(counts)}"
    if in_full:
        yield from _indented(_correction(stage.correction))
    if stage.first_layout is not None:
        yield from _indented(_first_layout(stage.first_layout, history.start.mode, in_full=in_full))
    for decision in stage.decisions if in_full else _shown(stage):
        yield from _indented(_decision(decision, stage.outcomes.get(decision.number), in_full=in_full))
    if not stage.decisions:
        yield "  no decision was due: requests ended too soon, or not all had arrived"
    if stage.review is not None:
        yield from _indented(_review(stage.review.review))


def _correction(correction: Correction) -> Iterator[str]:
    """The factors on the profile's step times, by degree and by requests of a group."""
    degrees = []
    for degree, bins in sorted(correction.factors.items()):
        factors = ", ".join(f"{factor:.2f} from {2**one} on" for one, factor in sorted(bins.items()))
        degrees.append(f"TP{degree} {factors}")
    if degrees:
        yield f"measured over profiled step time, by requests of a group: {'; '.join(degrees)}"


def _shown(stage: StageHistory) -> list[DecisionEntry]:
    """The decisions behind the switches; without a switch, the decision that came closest to one."""
    with_outcome = [decision for decision in stage.decisions if decision.number in stage.outcomes]
    if with_outcome:
        return with_outcome
    without_outcome = [decision for decision in stage.decisions if decision.is_switch]
    if without_outcome or not stage.decisions:
        return without_outcome[:1]
    return [max(stage.decisions, key=lambda decision: (_closeness(decision), decision.number))]


def _closeness(decision: DecisionEntry) -> float:
    # Where nothing was priced there is nothing that could have been chosen.
    return decision.choice.gain_seconds if decision.choice.options else float("-inf")


def _first_layout(entry: FirstLayoutEntry, mode: str, *, in_full: bool) -> Iterator[str]:
    expected, choice = entry.expected.num_requests, entry.choice
    advised = ", only advised" if mode == "advise" else ""
    yield f"first layout, {_count(expected, 'request')} expected: TP{choice.degree}{advised}"
    yield from _options(choice, choice.degree, in_full=in_full)
    if not choice.options:
        yield f"  because {choice.reason}"


def _decision(decision: DecisionEntry, outcome: SwitchOutcomeEntry | None, *, in_full: bool) -> Iterator[str]:
    present, choice = decision.snapshot.degree, decision.choice
    chosen = f"from TP{present} to TP{choice.degree}" if decision.is_switch else f"TP{present} stays"
    yield f"decision {decision.number}, {len(decision.snapshot.live)} live: {chosen}"
    yield from _options(choice, present, in_full=in_full)
    yield f"  because {choice.reason}"
    if outcome is not None:
        yield f"  then: {_outcome(outcome.switch)}"
    elif decision.is_switch:
        yield "  then: the switch was not made, or the ledger ends before it"


def _options(choice: Choice, present: int, *, in_full: bool) -> Iterator[str]:
    """The present layout, then the others: all, or the fastest."""
    present_option = [option for option in choice.options if option.degree == present]
    others = sorted((one for one in choice.options if one.degree != present), key=lambda one: one.seconds)
    for option in present_option + (others if in_full else others[:1]):
        interval = f"[{option.low_seconds:.2f}, {option.high_seconds:.2f}]"
        line = f"  TP{option.degree}: {option.seconds:.2f} s {interval}"
        if option.pause_seconds:
            line += f" with a pause of {_milliseconds(option.pause_seconds)}"
        if option.next_degree is not None:
            line += f", then TP{option.next_degree} at {option.next_at_requests} live"
        yield line


def _outcome(switch: Mapping[str, Any]) -> str:
    predicted_gain = _seconds(switch.get("predicted_gain_seconds"))
    predicted_pause = _milliseconds(switch.get("predicted_pause_seconds"))
    match switch["outcome"]:
        case "committed":
            gain = _seconds(switch.get("gain_seconds"))
            pause = _milliseconds(switch.get("pause_seconds"))
            return f"pause {pause} (predicted {predicted_pause}), gain {gain} (predicted {predicted_gain})"
        case "advised":
            return f"only advised; predicted: pause {predicted_pause}, gain {predicted_gain}"
        case outcome:
            return f"{outcome}: {switch.get('reason')}"


def _review(review: Mapping[str, Any]) -> Iterator[str]:
    if "not_judged" in review:
        yield f"not compared with other plans: {review['not_judged']}"
        return
    executed, prefill = review["executed_seconds"], review["prefill_seconds"]
    layouts = ", ".join(f"TP{degree} {value:.2f} s" for degree, value in review["static_seconds"].items())
    simulated = f"simulated {executed + prefill:.2f} s with prefill"
    yield f"it took {review['actual_seconds']:.2f} s, {simulated} ({review['model_error']:+.1%})"
    yield f"simulated decoding: {executed:.2f} s; static layouts: {layouts}"
    yield f"best plan: {review['best_seconds']:.2f} s ({review['best_plan']}), regret {review['regret']:.1%}"
    advised = review.get("advised")
    if advised is not None:
        yield (
            f"following the predictor would have saved {advised['gain_seconds']:.2f} ± "
            f"{advised['half_width_seconds']:.2f} s of {advised['staying_seconds']:.2f} s"
        )


def _seconds(value: float | None) -> str:
    return "not measured" if value is None else f"{value:+.2f} s"


def _milliseconds(value: float | None) -> str:
    return "not measured" if value is None else f"{value * 1000:.0f} ms"


def _count(number: int, noun: str) -> str:
    plural = f"{noun}es" if noun.endswith("ch") else f"{noun}s"
    return f"{number} {noun if number == 1 else plural}"


def _indented(lines: Iterable[str]) -> Iterator[str]:
    return (f"  {line}" for line in lines)

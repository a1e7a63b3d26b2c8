"""Why each switch happened or did not, in words, from the ledger. Pure.

By default a stage tells its switches, or where there was none the alternative that was closest to
one; in full it tells every question, with all layouts, and how the profile was corrected. Seconds are
to the end of the stage, with their 80 % interval.
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
    """Lines of text: a paragraph a stage, of one step and one replica where they are given."""
    for history in histories:
        if replica is not None and history.replica != replica:
            continue
        for stage in history.stages():
            if step is None or stage.step == step:
                yield from _stage(history, stage, in_full=in_full)
                yield ""


def _stage(history: ReplicaHistory, stage: StageHistory, *, in_full: bool) -> Iterator[str]:
    made = [one.switch for one in stage.outcomes.values() if one.switch["outcome"] == "committed"]
    told = [_count(len(stage.decisions), "question"), _count(len(made), "switch")]
    if not stage.has_ended:
        told.append("broken off")
    yield f"step {stage.step}, replica {history.replica}: {', '.join(told)}"
    if in_full:
        yield from _indented(_correction(stage.correction))
    if stage.first_layout is not None:
        yield from _indented(_opening(stage.first_layout, history.start.mode, in_full=in_full))
    for question in stage.decisions if in_full else _telling(stage):
        yield from _indented(_question(question, stage.outcomes.get(question.number), in_full=in_full))
    if not stage.decisions:
        yield "  nothing was asked: too few requests lived for long enough, or not all had arrived"
    if stage.review is not None:
        yield from _indented(_judgement(stage.review.review))


def _correction(correction: Correction) -> Iterator[str]:
    """By how much steps were taken to be longer than the profile says, by requests of a group."""
    degrees = []
    for degree, bins in sorted(correction.factors.items()):
        factors = ", ".join(f"{factor:.2f} from {2**one} on" for one, factor in sorted(bins.items()))
        degrees.append(f"TP{degree} {factors}")
    if degrees:
        yield f"steps as corrected, times the profile's, by requests of a group: {'; '.join(degrees)}"


def _telling(stage: StageHistory) -> list[DecisionEntry]:
    """The questions behind the switches; without one, the one that was closest to a switch."""
    told = [question for question in stage.decisions if question.number in stage.outcomes]
    if told:
        return told
    untold = [question for question in stage.decisions if question.is_switch]
    if untold or not stage.decisions:
        return untold[:1]
    return [max(stage.decisions, key=lambda question: (_closeness(question), question.number))]


def _closeness(question: DecisionEntry) -> float:
    # Where nothing was priced there is nothing that could have been chosen.
    return question.choice.gain_seconds if question.choice.options else float("-inf")


def _opening(opening: FirstLayoutEntry, mode: str, *, in_full: bool) -> Iterator[str]:
    expected, choice = opening.expected.num_requests, opening.choice
    advised = ", which was only advised" if mode == "advise" else ""
    yield f"opening, {_count(expected, 'request')} expected: TP{choice.degree}{advised}"
    yield from _options(choice, choice.degree, in_full=in_full)
    if not choice.options:
        yield f"  because {choice.reason}"


def _question(question: DecisionEntry, outcome: SwitchOutcomeEntry | None, *, in_full: bool) -> Iterator[str]:
    present, choice = question.snapshot.degree, question.choice
    chosen = f"from TP{present} to TP{choice.degree}" if question.is_switch else f"TP{present} stays"
    yield f"question {question.number}, {len(question.snapshot.live)} live: {chosen}"
    yield from _options(choice, present, in_full=in_full)
    yield f"  because {choice.reason}"
    if outcome is not None:
        yield f"  then: {_outcome(outcome.switch)}"
    elif question.is_switch:
        yield "  then: no switch was made of it, or the ledger ends before"


def _options(choice: Choice, present: int, *, in_full: bool) -> Iterator[str]:
    """The layout at hand, then the others: all, or the one that takes least."""
    at_hand = [option for option in choice.options if option.degree == present]
    others = sorted((one for one in choice.options if one.degree != present), key=lambda one: one.seconds)
    for option in at_hand + (others if in_full else others[:1]):
        interval = f"[{option.low_seconds:.2f}, {option.high_seconds:.2f}]"
        told = f"  TP{option.degree}: {option.seconds:.2f} s {interval}"
        if option.pause_seconds:
            told += f" with a pause of {_milliseconds(option.pause_seconds)}"
        if option.next_degree is not None:
            told += f", then TP{option.next_degree} at {option.next_at_requests} live"
        yield told


def _outcome(switch: Mapping[str, Any]) -> str:
    predicted_gain = _seconds(switch.get("predicted_gain_seconds"))
    predicted_pause = _milliseconds(switch.get("predicted_pause_seconds"))
    match switch["outcome"]:
        case "committed":
            gain = _seconds(switch.get("gain_seconds"))
            pause = _milliseconds(switch.get("pause_seconds"))
            return f"pause {pause} (predicted {predicted_pause}), gain {gain} (predicted {predicted_gain})"
        case "advised":
            return f"it was only advised; predicted: pause {predicted_pause}, gain {predicted_gain}"
        case outcome:
            return f"{outcome}: {switch.get('reason')}"


def _judgement(review: Mapping[str, Any]) -> Iterator[str]:
    if "not_judged" in review:
        yield f"not judged: {review['not_judged']}"
        return
    executed, prefill = review["executed_seconds"], review["prefill_seconds"]
    layouts = ", ".join(f"TP{degree} {value:.2f} s" for degree, value in review["static_seconds"].items())
    paper = f"on paper {executed + prefill:.2f} s with the prefill"
    yield f"it took {review['actual_seconds']:.2f} s, {paper} ({review['model_error']:+.1%})"
    yield f"on paper, decoding: {executed:.2f} s; in one layout throughout: {layouts}"
    yield f"best plan: {review['best_seconds']:.2f} s ({review['best_plan']}), regret {review['regret']:.1%}"
    advised = review.get("advised")
    if advised is not None:
        yield (
            f"following the advice would have saved {advised['gain_seconds']:.2f} ± "
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

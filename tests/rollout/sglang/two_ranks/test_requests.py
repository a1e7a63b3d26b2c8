"""What a request asked for and what it has counted so far goes with it through every switch."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from ..live_engine import GREEDY, PROMPTS, LiveEngine, StageResult, SwitchAt, differences

SWITCHES = [SwitchAt(tokens=12, degree=2), SwitchAt(tokens=30, degree=1), SwitchAt(tokens=45, degree=2)]
ENDING = GREEDY | {"ignore_eos": False}


def reasons(result: StageResult) -> list[dict[str, Any]]:
    return [output["meta_info"]["finish_reason"] for output in result.outputs]


def equal_through_switches(
    engine: LiveEngine, sampling: list[dict[str, Any]], *, kv: str = "migrate"
) -> StageResult:
    """The unswitched stage, after checking that the switched one is equal in everything."""
    unswitched = engine.stage(sampling=sampling)
    switches = [SwitchAt(tokens=s.tokens, degree=s.degree, kv=kv) for s in SWITCHES]
    switched = engine.stage(switches, sampling=sampling)
    assert differences(unswitched, switched) == []
    assert reasons(unswitched) == reasons(switched)
    return unswitched


@pytest.mark.parametrize("kv", ["migrate", "recompute"])
def test_penalties_go_on_counting(engine: LiveEngine, unswitched: StageResult, kv: str) -> None:
    penalties: list[dict[str, Any]] = [
        {"frequency_penalty": 0.4},
        {"presence_penalty": 1.5},
        {"repetition_penalty": 1.4},
        {"frequency_penalty": 0.2, "presence_penalty": 0.5, "repetition_penalty": 1.1},
        {},
        {"frequency_penalty": -0.3},
        {"repetition_penalty": 1.05, "min_new_tokens": 20},
    ]
    result = equal_through_switches(engine, [GREEDY | penalty for penalty in penalties], kv=kv)
    changed = [a != b for a, b in zip(result.tokens, unswitched.tokens, strict=True)]
    assert changed == [True, True, True, True, False, True, True]


def test_fewest_tokens_are_counted_from_the_start(engine: LiveEngine, unswitched: StageResult) -> None:
    """Each request could stop early, at a token that it likes; it must not before its minimum."""
    sampling = [
        ENDING | {"stop_token_ids": sorted(set(tokens)), "min_new_tokens": 50 + index}
        for index, tokens in enumerate(unswitched.tokens)
    ]
    result = equal_through_switches(engine, sampling)
    assert all(len(tokens) >= 50 + index for index, tokens in enumerate(result.tokens))


def test_most_tokens_are_counted_from_the_start(engine: LiveEngine) -> None:
    result = equal_through_switches(engine, [GREEDY | {"max_new_tokens": 20 + 13 * i} for i in range(7)])
    assert [len(tokens) for tokens in result.tokens] == [20 + 13 * i for i in range(7)]
    assert {reason["type"] for reason in reasons(result)} == {"length"}


def first_new(tokens: list[int], start: int) -> int:
    """The first position from `start` whose token did not occur before."""
    return next(i for i in range(start, len(tokens)) if tokens[i] not in tokens[:i])


def test_stop_tokens_stop(engine: LiveEngine, unswitched: StageResult) -> None:
    places = [first_new(tokens, 5 + 10 * index) for index, tokens in enumerate(unswitched.tokens)]
    sampling = [
        ENDING | {"stop_token_ids": [tokens[place]]}
        for tokens, place in zip(unswitched.tokens, places, strict=True)
    ]
    result = equal_through_switches(engine, sampling)
    assert [len(tokens) for tokens in result.tokens] == [place + 1 for place in places]
    assert {reason["type"] for reason in reasons(result)} == {"stop"}


def test_stop_strings_stop(engine: LiveEngine, unswitched: StageResult) -> None:
    """Also where the string began before a switch and ends after it."""
    places = [first_new(tokens, 8 + 9 * index) for index, tokens in enumerate(unswitched.tokens)]
    sampling = [
        ENDING | {"stop": [" ".join(f"w{token}" for token in tokens[place - 2 : place + 1])]}
        for tokens, place in zip(unswitched.tokens, places, strict=True)
    ]
    result = equal_through_switches(engine, sampling)
    assert [len(tokens) for tokens in result.tokens] == [place + 1 for place in places]
    assert {reason["type"] for reason in reasons(result)} == {"stop"}


def test_a_stream_gives_every_token_once_and_in_order(engine: LiveEngine, unswitched: StageResult) -> None:
    async def follow(prompt: list[int]) -> list[list[int]]:
        return [list(o["output_ids"]) async for o in engine.engine.stream(prompt, GREEDY, logprobs=True)]

    async def scenario() -> list[list[list[int]]]:
        streams = [asyncio.create_task(follow(prompt)) for prompt in PROMPTS]
        for planned in SWITCHES:
            await engine.reached(planned.tokens)
            await engine.switch(planned.degree)
        return list(await asyncio.gather(*streams))

    for tokens, chunks in zip(unswitched.tokens, engine.run(scenario()), strict=True):
        lengths = [len(chunk) for chunk in chunks]
        assert all(chunk == tokens[: len(chunk)] for chunk in chunks)
        assert lengths == sorted(set(lengths))
        assert lengths[-1] == len(tokens)
        assert len(chunks) > 10


def test_prompt_and_top_log_probs_survive(engine: LiveEngine) -> None:
    extra = {"logprobs": True, "logprob_start_len": 0, "top_logprobs_num": 3}

    async def scenario(switches: list[SwitchAt]) -> list[dict[str, Any]]:
        requests = [asyncio.create_task(engine.engine.generate(p, GREEDY, **extra)) for p in PROMPTS]
        for planned in switches:
            await engine.reached(planned.tokens)
            await engine.switch(planned.degree)
        return [output["meta_info"] for output in await asyncio.gather(*requests)]

    for one, two in zip(engine.run(scenario([])), engine.run(scenario(SWITCHES)), strict=True):
        for name in ("input_token_logprobs", "output_token_logprobs"):
            assert [entry[1] for entry in one[name]] == [entry[1] for entry in two[name]]
            values = [(a[0], b[0]) for a, b in zip(one[name], two[name], strict=True) if a[0] is not None]
            assert all(a == pytest.approx(b, abs=1e-4) for a, b in values)
        assert len(two["output_top_logprobs"]) == GREEDY["max_new_tokens"]
        assert [[entry[1] for entry in top] for top in one["output_top_logprobs"]] == [
            [entry[1] for entry in top] for top in two["output_top_logprobs"]
        ]

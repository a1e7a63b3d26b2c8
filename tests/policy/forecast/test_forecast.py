import dataclasses
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taper_policy.forecast.forecast import NUM_QUANTILES, PROBABILITIES, LiveRequest, forecast
from taper_policy.forecast.lengths import LengthHistory

from ...examples import examples

MAX_TOKENS = 4_096
PROMPTS = ("easy", "plain", "hard", "new")


@dataclasses.dataclass(frozen=True)
class World:
    """A stage at one moment: (prompt, tokens) of past stages and of this one, and the live requests."""

    past: list[list[tuple[str, int]]]
    ended: list[tuple[str, int]]
    live: list[LiveRequest]

    def history(self) -> LengthHistory:
        history = LengthHistory()
        for stage in (*self.past, self.ended):
            history.start_stage()
            for prompt, tokens in stage:
                history.add_finished(prompt, tokens)
        return history

    def quantiles(self) -> np.ndarray:
        return forecast(self.live, self.history(), max_tokens=MAX_TOKENS).quantiles


def request(rid: str, prompt: str, decoded_tokens: int) -> LiveRequest:
    return LiveRequest(rid=rid, prompt=prompt, group=0, prompt_tokens=20, decoded_tokens=decoded_tokens)


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """Siblings that resemble each other, and some that do not; lengths from 1 to the cap."""
    random = Random(draw(st.integers(0, 10**6)))
    spread = draw(st.sampled_from([0.0, 0.3, 1.2]))
    level = {prompt: random.gauss(6.5, 1.0) for prompt in PROMPTS}

    def stage() -> list[tuple[str, int]]:
        prompts = random.choices(PROMPTS, k=random.randint(1, 40))
        lengths = [round(2.718 ** random.gauss(level[prompt], spread)) for prompt in prompts]
        return [(p, min(max(n, 1), MAX_TOKENS)) for p, n in zip(prompts, lengths, strict=True)]

    past = [stage() for _ in range(draw(st.integers(0, 3)))]
    rest = [request(str(rid), p, max(0, n - 1 - n // 3)) for rid, (p, n) in enumerate(stage())]
    return World(past=past, ended=stage() if draw(st.booleans()) else [], live=rest)


@given(worlds())
def test_within_what_the_cap_leaves_and_quantiles_never_fall(world: World) -> None:
    quantiles = world.quantiles()
    most = MAX_TOKENS - np.array([live.decoded_tokens for live in world.live])
    assert quantiles.shape == (len(world.live), NUM_QUANTILES)
    assert (quantiles >= 1).all()
    assert (quantiles <= most[:, None]).all()
    assert (np.diff(quantiles, axis=1) >= 0).all()


@given(worlds(), st.data())
def test_more_decoded_tokens_never_make_a_total_shorter(world: World, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(world.live) - 1))
    before = world.live[index]
    decoded = data.draw(st.integers(before.decoded_tokens, MAX_TOKENS - 1))
    live = [*world.live]
    live[index] = dataclasses.replace(before, decoded_tokens=decoded)
    after = dataclasses.replace(world, live=live).quantiles()[index] + decoded
    assert (after >= world.quantiles()[index] + before.decoded_tokens).all()


@given(worlds(), st.data())
def test_a_longer_live_sibling_never_shortens_a_forecast(world: World, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(world.live) - 1))
    before = world.live[index]
    live = [*world.live]
    live[index] = dataclasses.replace(
        before, decoded_tokens=data.draw(st.integers(before.decoded_tokens, MAX_TOKENS - 1))
    )
    siblings = [i for i, other in enumerate(live) if other.prompt == before.prompt and i != index]
    after = dataclasses.replace(world, live=live).quantiles()
    assert (after[siblings] >= world.quantiles()[siblings]).all()


@given(worlds(), st.sampled_from(PROMPTS), st.integers(1, MAX_TOKENS), st.integers(1, MAX_TOKENS))
def test_a_longer_ended_sibling_never_shortens_a_forecast(
    world: World, prompt: str, one: int, other: int
) -> None:
    short, long = (
        dataclasses.replace(world, ended=[*world.ended, (prompt, tokens)]) for tokens in sorted((one, other))
    )
    siblings = [index for index, live in enumerate(world.live) if live.prompt == prompt]
    assert (long.quantiles()[siblings] >= short.quantiles()[siblings]).all()


@examples(50)
@given(worlds(), st.randoms(use_true_random=False))
def test_order_is_of_no_matter_and_nothing_is_random(world: World, random: Random) -> None:
    order = random.sample(range(len(world.live)), len(world.live))
    shuffled = World(
        past=[random.sample(stage, len(stage)) for stage in world.past],
        ended=random.sample(world.ended, len(world.ended)),
        live=[world.live[index] for index in order],
    )
    made = forecast(world.live, world.history(), max_tokens=MAX_TOKENS)
    again = forecast(shuffled.live, shuffled.history(), max_tokens=MAX_TOKENS)
    assert (again.quantiles == made.quantiles[order]).all()
    assert (again.scenarios(5, seed=3) == made.scenarios(5, seed=3)[:, order]).all()


def test_the_first_step_is_the_prior() -> None:
    made = forecast([request("a", "p", 0)], LengthHistory(), max_tokens=24_576)
    median = np.interp(0.5, PROBABILITIES, made.quantiles[0])
    assert median == pytest.approx(np.exp(7.27), rel=0.03)
    assert 1 - np.interp(8_192, made.quantiles[0], PROBABILITIES) == pytest.approx(0.1085, abs=0.01)


def test_long_siblings_lengthen_a_forecast_and_earlier_stages_do_so_less() -> None:
    others = [(f"p{i}", 100 * i) for i in range(1, 30)]
    world = World(past=[[*others, *[("y", 2_800)] * 4]], ended=[], live=[request("a", "x", 0)])
    now = dataclasses.replace(world, ended=[("x", 2_800)] * 4)
    earlier = dataclasses.replace(world, past=[[*others, *[("x", 2_800)] * 4]])
    alone, with_earlier, with_now = (np.median(one.quantiles()) for one in (world, earlier, now))
    assert alone * 1.1 < with_earlier < with_now


@examples(20)
@given(worlds(), st.integers(1, 40), st.integers(-5, 2**70))
def test_scenarios_lie_one_in_each_stratum_of_the_request(world: World, count: int, seed: int) -> None:
    made = forecast(world.live, world.history(), max_tokens=MAX_TOKENS)
    drawn = made.scenarios(count, seed)
    assert drawn.shape == (count, len(world.live))
    assert (made.scenarios(count, seed) == drawn).all()
    edges = np.arange(count + 1) / count
    for index in range(len(world.live)):
        bounds = np.interp(edges, PROBABILITIES, made.quantiles[index])
        ordered = np.sort(drawn[:, index])
        assert (ordered >= np.floor(bounds[:-1])).all()
        assert (ordered <= bounds[1:]).all()


def test_scenarios_differ_by_request_and_seed_and_reach_into_the_tail() -> None:
    live = [request(str(index), str(index), 0) for index in range(128)]
    made = forecast(live, LengthHistory(), max_tokens=24_576)
    drawn = made.scenarios(16, 1)
    assert (drawn[:, 0] != drawn[:, 1]).any()
    assert (drawn != made.scenarios(16, 2)).any()
    # The prior: 2.2 % at the cap, so that at least one of 128 is there in 94 of 100 stages.
    assert np.mean(drawn.max(axis=1) == 24_576) > 0.8


def test_draws_of_siblings_go_together_as_long_as_their_prompt_is_not_known() -> None:
    live = [request(name, name[0], 0) for name in ("a0", "a1", "b0")]
    history = LengthHistory()
    history.start_stage()
    unknown = forecast(live, history, max_tokens=MAX_TOKENS)
    for tokens in (200, 300, 400, 500, 350, 250):
        history.add_finished("a", tokens)
    known = forecast(live, history, max_tokens=MAX_TOKENS)

    def correlation(one: int, other: int) -> float:
        return float(
            np.corrcoef(np.argsort(np.argsort(unknown.scenarios(2000, 1), axis=0), axis=0).T)[one, other]
        )

    assert correlation(0, 1) == pytest.approx(unknown.shared[0], abs=0.06)
    assert correlation(0, 2) == pytest.approx(0.0, abs=0.06)
    assert unknown.shared.tolist() == pytest.approx([0.3, 0.3, 0.3], abs=0.01)
    assert known.shared[0] < 0.2 < known.shared[2]


def test_nothing_live_has_an_empty_forecast() -> None:
    made = forecast([], LengthHistory(), max_tokens=10)
    assert made.quantiles.shape == (0, NUM_QUANTILES)
    assert made.scenarios(3, 0).shape == (3, 0)


@pytest.mark.parametrize("field", ["group", "prompt_tokens", "decoded_tokens"])
def test_a_negative_field_is_refused_by_name(field: str) -> None:
    with pytest.raises(ValueError, match=f"{field}: -1 is negative"):
        dataclasses.replace(request("a", "p", 3), **{field: -1})


@pytest.mark.parametrize(
    ("live", "problem"),
    [
        ([request("a", "p", 1), request("b", "p", 11)], r"live\[1\].decoded_tokens: 11 of at most 10"),
        ([request("a", "p", 10)], r"live\[0\].decoded_tokens: 10 of at most 10"),
        ([request("a", "p", 1), request("a", "q", 2)], r"live\[1\].rid: a is there twice"),
    ],
)
def test_what_cannot_be_live_is_refused_by_path(live: list[LiveRequest], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        forecast(live, LengthHistory(), max_tokens=10)


def test_other_settings_out_of_range_are_refused_by_name() -> None:
    made = forecast([request("a", "p", 1)], LengthHistory(), max_tokens=10)
    with pytest.raises(ValueError, match="max_tokens: 0"):
        forecast([], LengthHistory(), max_tokens=0)
    with pytest.raises(ValueError, match="count: 0"):
        made.scenarios(0, 1)

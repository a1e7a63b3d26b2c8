import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taper_policy.profile.step_surface import StepCell, StepSurface, check_cells

NUM_GROUPS = 4
BATCHES = (1, 2, 3, 4, 8, 16)
CONTEXTS = (128, 512, 2048, 8192)
BUSY = (1, 3)


def cells(
    seconds: Callable[[int, int, int], float] = lambda batch, context, busy: 0.01,
    keep: Callable[[int, int, int], bool] = lambda batch, context, busy: True,
) -> list[StepCell]:
    return [
        StepCell(
            degree=1,
            batch=batch,
            context_tokens=context,
            busy_groups=busy,
            seconds=seconds(batch, context, busy),
            half_width_seconds=0.02 * seconds(batch, context, busy),
            num_samples=20,
        )
        for busy in BUSY
        for batch in BATCHES
        for context in CONTEXTS
        if keep(batch, context, busy)
    ]


def product(batch: float, context: float, busy: float) -> float:
    return 0.002 + 0.001 * batch + 1e-7 * batch * context + 0.0005 * busy


def checked(chosen: list[StepCell]) -> StepSurface:
    check_cells(chosen, footprint=NUM_GROUPS, degrees=(1,), derived=False)
    return StepSurface(chosen, num_groups=NUM_GROUPS)


@st.composite
def surfaces(draw: st.DrawFn) -> tuple[list[StepCell], StepSurface]:
    """Any seconds, within bounds, on a grid whose lines get shorter as memory runs out."""
    lengths = sorted(
        draw(st.lists(st.integers(1, 4), min_size=len(BATCHES), max_size=len(BATCHES))), reverse=True
    )
    longest = dict(zip(BATCHES, lengths, strict=True))
    count = len(BUSY) * len(BATCHES) * len(CONTEXTS)
    numbers = iter(draw(st.lists(st.floats(0.01, 0.5), min_size=count, max_size=count)))
    chosen = cells(
        lambda batch, context, busy: 0.01, lambda batch, context, _: context in CONTEXTS[: longest[batch]]
    )
    chosen = [replace(cell, seconds=next(numbers), half_width_seconds=0.001) for cell in chosen]
    return chosen, checked(chosen)


points = st.tuples(st.floats(1, 100), st.floats(1, 40_000), st.integers(1, NUM_GROUPS))


@given(surfaces())
def test_a_measured_cell_gives_itself(given_surface: tuple[list[StepCell], StepSurface]) -> None:
    chosen, surface = given_surface
    found = surface.seconds(
        [cell.batch for cell in chosen],
        [cell.context_tokens for cell in chosen],
        [cell.busy_groups for cell in chosen],
    )
    assert found == pytest.approx([cell.seconds for cell in chosen])


@given(surfaces(), st.floats(1, 16), st.floats(128, 8192), st.integers(1, 3))
def test_between_cells_an_estimate_lies_within_its_neighbours(
    given_surface: tuple[list[StepCell], StepSurface], batch: float, context: float, busy: int
) -> None:
    chosen, surface = given_surface
    found = surface.seconds(batch, context, busy)
    batches = {max(b for b in BATCHES if b <= batch), min(b for b in BATCHES if b >= batch)}
    contexts = {max(c for c in CONTEXTS if c <= context), min(c for c in CONTEXTS if c >= context)}
    near = [cell.seconds for cell in chosen if cell.batch in batches and cell.context_tokens in contexts]
    if len(near) == len(BUSY) * len(batches) * len(contexts):
        assert min(near) - 1e-12 <= found <= max(near) + 1e-12


def test_it_is_linear_between_the_two_nearest_only() -> None:
    jump = checked(cells(lambda batch, context, busy: 0.01 if batch <= 3 else 0.02))
    assert jump.seconds([2.9, 3, 3.5, 4, 6], 1000) == pytest.approx([0.01, 0.01, 0.015, 0.02, 0.02])


@given(points)
def test_what_is_linear_on_each_axis_is_found_again_within_the_grid(
    point: tuple[float, float, int],
) -> None:
    batch, context, busy = min(point[0], 16), min(max(point[1], 128), 8192), min(point[2], 3)
    assert checked(cells(product)).seconds(batch, context, busy) == pytest.approx(
        product(batch, context, busy)
    )


def test_beyond_the_grid_the_last_slope_is_carried_on() -> None:
    surface = checked(cells(product))
    found = surface.seconds([32, 16, 32], [8192, 20_000, 20_000])
    assert found == pytest.approx([product(32, 8192, 1), product(16, 20_000, 1), product(32, 20_000, 1)])


def test_a_falling_slope_is_not_carried_below_the_nearest_value() -> None:
    surface = checked(cells(lambda batch, context, busy: 0.05 - 0.001 * batch - 1e-6 * context))
    edge = surface.seconds(16, 8192)
    found = surface.seconds([16, 10_000], [100_000, 8192])
    assert found == pytest.approx([float(edge)] * 2)
    assert checked(cells(product)).seconds(1, 1) == pytest.approx(product(1, 128, 1))


@given(surfaces(), points)
def test_beyond_the_grid_nothing_is_less_than_the_nearest(
    given_surface: tuple[list[StepCell], StepSurface], point: tuple[float, float, int]
) -> None:
    _, surface = given_surface
    batch, context, busy = point
    near = surface.seconds(min(batch, 16), min(max(context, 128), 8192), busy)
    found = surface.seconds(batch, context, busy)
    # With both axes beyond, the batch's slope is that of the longer context.
    if batch <= 16 or 128 <= context <= 8192:
        assert found >= near - 1e-12
    assert found > 0


def test_the_longest_contexts_of_large_batches_may_be_missing() -> None:
    surface = checked(cells(product, lambda batch, context, busy: batch < 8 or context <= 512))
    found = surface.seconds([4, 8, 8, 6], [8192, 512, 8192, 600])
    assert found == pytest.approx(
        [product(4, 8192, 1), product(8, 512, 1), product(8, 8192, 1), product(6, 600, 1)]
    )


def test_busy_groups_are_linear_between_and_nearest_beyond() -> None:
    surface = checked(cells(product))
    found = surface.seconds(4, 1000, [1, 2, 3, 4])
    by_busy = [product(4, 1000, busy) for busy in (1, 2, 3, 3)]
    assert found == pytest.approx(by_busy)


def test_one_cell_makes_a_surface() -> None:
    one = cells(product, lambda batch, context, busy: (batch, context, busy) == (2, 512, 1))
    found = checked(one).seconds([2, 1, 9], [512, 512, 512])
    assert found == pytest.approx([product(2, 512, 1)] * 3)


@given(surfaces(), st.lists(points, min_size=1, max_size=20))
def test_many_points_get_what_each_gets_alone(
    given_surface: tuple[list[StepCell], StepSurface], chosen: list[tuple[float, float, int]]
) -> None:
    _, surface = given_surface
    batch, context, busy = zip(*chosen, strict=True)
    found = surface.seconds(batch, context, busy)
    alone = [surface.seconds(*point) for point in chosen]
    assert found.tolist() == alone


def test_a_batch_of_nothing_takes_nothing() -> None:
    surface = checked(cells(product))
    assert surface.seconds([0, 1], 128).tolist() == [0.0, pytest.approx(product(1, 128, 1))]
    assert surface.seconds(np.zeros((2, 0)), 128).shape == (2, 0)
    assert surface.seconds(np.ones((5, 1)), np.full(3, 200.0)).shape == (5, 3)


@pytest.mark.parametrize(
    ("point", "name"),
    [
        ((-1, 128, 1), "batch"),
        ((float("nan"), 128, 1), "batch"),
        ((1, -2, 1), "context_tokens"),
        ((1, float("inf"), 1), "context_tokens"),
        ((1, 128, 0), "busy_groups"),
        ((1, 128, 5), "busy_groups"),
    ],
)
def test_what_no_group_can_have_is_refused(point: tuple[float, float, int], name: str) -> None:
    surface = checked(cells(product))
    with pytest.raises(ValueError, match=f"^{name}: "):
        surface.seconds(*point)


def test_ten_thousand_points_take_less_than_two_milliseconds() -> None:
    surface = checked(cells(product))
    random = np.random.default_rng(0)
    batch, context = random.integers(1, 40, 10_000), random.uniform(1, 20_000, 10_000)
    took = []
    for _ in range(20):
        # The processor's time: another process on the machine is no fault of ours.
        start = time.process_time()
        surface.seconds(batch, context, 2)
        took.append(time.process_time() - start)
    assert min(took) < 0.002


def changed(index: int, **fields: float) -> list[StepCell]:
    chosen = cells(product)
    chosen[index] = replace(chosen[index], **fields)  # type: ignore[arg-type]
    return chosen


@pytest.mark.parametrize(
    ("chosen", "problem"),
    [
        (changed(3, seconds=-0.1), r"^cells\[3\]\.seconds: -0.1 "),
        (changed(3, seconds=0.0), r"^cells\[3\]\.seconds: "),
        (changed(3, seconds=float("nan")), r"^cells\[3\]\.seconds: "),
        (changed(3, seconds=float("inf")), r"^cells\[3\]\.seconds: "),
        (changed(0, half_width_seconds=-1.0), r"^cells\[0\]\.half_width_seconds: "),
        (changed(2, num_samples=0), r"^cells\[2\]\.num_samples: 0 is not 1 or more"),
        (changed(2, context_tokens=0), r"^cells\[2\]\.context_tokens: "),
        (changed(2, degree=2), r"^cells\[2\]\.degree: 2 is not among"),
        (changed(2, busy_groups=5), r"^cells\[2\]\.busy_groups: 5 is not within \[1, 4\]"),
        (changed(4, batch=0), r"^cells\[4\]\.batch: "),
        (changed(9, batch=1), r"^cells\[9\]\.batch: 1 does not ascend after 3"),
        (changed(2, context_tokens=512), r"^cells\[2\]: is there twice"),
        (
            changed(7, seconds=product(2, 8192, 1) * 1000),
            r"^cells\[7\]\.seconds: .* times apart from cells\[",
        ),
        (cells(product, lambda batch, _, busy: busy == 3), r"^cells: none of degree 1 with busy_groups 1"),
        (
            cells(product, lambda batch, context, _: (batch, context) != (3, 512)),
            r"^cells: missing: degree 1, busy_groups 1, batch 3, context_tokens 512",
        ),
        (
            cells(product, lambda batch, context, _: (batch, context) != (1, 8192)),
            r"^cells: missing: degree 1, busy_groups 1, batch 1, context_tokens 8192",
        ),
    ],
)
def test_cells_that_make_no_surface_are_refused(chosen: list[StepCell], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        check_cells(chosen, footprint=NUM_GROUPS, degrees=(1,), derived=False)


def test_a_degree_in_other_units_is_refused() -> None:
    narrow = cells(product, lambda batch, context, busy: busy == 1)
    wide = [replace(cell, degree=4, seconds=cell.seconds * 1000) for cell in narrow]
    with pytest.raises(ValueError, match=r"^cells\[24\]\.seconds: .* 1000 times apart from cells\[0\]"):
        check_cells(narrow + wide, footprint=4, degrees=(1, 4), derived=False)


def test_cells_of_all_degrees_are_wanted() -> None:
    with pytest.raises(ValueError, match=r"^cells: none of degree 4 "):
        check_cells(cells(product), footprint=4, degrees=(1, 4), derived=False)

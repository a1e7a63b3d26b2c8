import pytest
from hypothesis import given
from hypothesis import strategies as st

from taper_policy import layout

DEGREES = (1, 2, 4, 8, 16)
degrees = st.sampled_from(DEGREES)
ranks = st.integers(0, 63)


@pytest.mark.parametrize(
    ("degree", "shards"),
    [
        (1, [0, 0, 0, 0, 0, 0, 0, 0]),
        (2, [0, 1, 0, 1, 0, 1, 0, 1]),
        (4, [0, 2, 1, 3, 0, 2, 1, 3]),
        (8, [0, 4, 2, 6, 1, 5, 3, 7]),
    ],
)
def test_shards_are_in_bit_reversed_order(degree: int, shards: list[int]) -> None:
    assert [layout.shard_of(rank, degree) for rank in range(8)] == shards


@given(rank=ranks, degree=degrees, rows_per_shard=st.integers(1, 7))
def test_the_wider_shard_lies_inside_the_narrower(rank: int, degree: int, rows_per_shard: int) -> None:
    num_rows = 2 * degree * rows_per_shard
    narrow = layout.shard_rows(rank, degree, num_rows)
    wide = layout.shard_rows(rank, 2 * degree, num_rows)
    assert narrow.start <= wide.start < wide.stop <= narrow.stop
    assert len(wide) * 2 == len(narrow)


@given(group=st.integers(0, 9), degree=degrees)
def test_a_group_holds_every_row_once(group: int, degree: int) -> None:
    rows = [layout.shard_rows(rank, degree, 3 * degree) for rank in layout.ranks_by_shard(group, degree)]
    assert [row for shard in rows for row in shard] == list(range(3 * degree))


@given(group=st.integers(0, 9), degree=degrees)
def test_ranks_by_shard_are_the_groups_ranks(group: int, degree: int) -> None:
    members = layout.ranks_by_shard(group, degree)
    assert sorted(members) == list(layout.ranks_of(group, degree))
    assert [layout.shard_of(rank, degree) for rank in members] == list(range(degree))
    assert {layout.group_of(rank, degree) for rank in members} == {group}


@pytest.mark.parametrize("footprint", DEGREES)
@pytest.mark.parametrize("degree", DEGREES)
def test_the_groups_of_a_degree_partition_the_footprint(footprint: int, degree: int) -> None:
    if degree > footprint:
        with pytest.raises(ValueError, match="larger than the footprint"):
            layout.groups(footprint, degree)
        return
    cut = layout.groups(footprint, degree)
    assert [rank for group in cut for rank in group] == list(range(footprint))
    assert {len(group) for group in cut} == {degree}


@pytest.mark.parametrize("degree", [1, 2, 4, 8])
def test_the_leader_is_the_first_rank_and_holds_shard_zero(degree: int) -> None:
    leaders = layout.leaders(8, degree)
    assert leaders == tuple(range(0, 8, degree))
    assert {layout.shard_of(leader, degree) for leader in leaders} == {0}


@pytest.mark.parametrize("degree", [0, -1, -2, 3, 6, 12])
def test_what_is_no_power_of_two_is_refused(degree: int) -> None:
    problem = f"degree: {degree} is not a power of two"
    with pytest.raises(ValueError, match=problem):
        layout.shard_of(0, degree)
    with pytest.raises(ValueError, match=problem):
        layout.group_of(0, degree)
    with pytest.raises(ValueError, match=problem):
        layout.ranks_of(0, degree)
    with pytest.raises(ValueError, match=problem):
        layout.ranks_by_shard(0, degree)
    with pytest.raises(ValueError, match=problem):
        layout.leaders(8, degree)
    with pytest.raises(ValueError, match=f"footprint: {degree} is not a power of two"):
        layout.groups(degree, 1)


def test_negative_ranks_and_groups_are_refused() -> None:
    with pytest.raises(ValueError, match="rank: -1 is negative"):
        layout.shard_of(-1, 2)
    with pytest.raises(ValueError, match="rank: -1 is negative"):
        layout.group_of(-1, 2)
    with pytest.raises(ValueError, match="group: -1 is negative"):
        layout.ranks_of(-1, 2)


def test_rows_that_the_degree_does_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="num_rows: 6 is not divisible by degree 4"):
        layout.shard_rows(0, 4, 6)
    with pytest.raises(ValueError, match="num_rows: -4 is negative"):
        layout.shard_rows(0, 4, -4)


def test_all_powers_of_two_are_the_degrees_by_default() -> None:
    assert layout.uniform_degrees(8) == (1, 2, 4, 8)
    assert layout.uniform_degrees(1) == (1,)


@pytest.mark.parametrize("asked", [(1, 2, 4), (2, 4), (1, 4), (4,)])
def test_ascending_degrees_up_to_the_footprint_are_taken(asked: tuple[int, ...]) -> None:
    assert layout.uniform_degrees(4, list(asked)) == asked


@pytest.mark.parametrize(
    ("asked", "problem"),
    [
        ([], r"degrees: \[\] must end at the footprint, 4"),
        ([1, 2], r"degrees: \[1, 2\] must end at the footprint, 4"),
        ([1, 8], r"degrees: \[1, 8\] must end at the footprint, 4"),
        ([1, 3, 4], r"degrees\[1\]: 3 is not a power of two"),
        ([2, 1, 4], r"degrees\[1\]: 1 does not ascend after 2"),
        ([1, 1, 4], r"degrees\[1\]: 1 does not ascend after 1"),
    ],
)
def test_other_degrees_are_refused(asked: list[int], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        layout.uniform_degrees(4, asked)

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taper_rollout.switching.states import (
    DEADLINE_SHARES,
    TRANSITIONS,
    IllegalTransition,
    SwitchEvent,
    SwitchProtocol,
    SwitchState,
)

PAIRS = list(itertools.product(SwitchState, SwitchEvent))
EPOCH = 7

# Written out, and not derived from the table under test.
EXPECTED = {
    SwitchState.SERVING: {SwitchEvent.PROPOSED: SwitchState.PREPARED},
    SwitchState.PREPARED: {
        SwitchEvent.ALL_AGREED: SwitchState.QUIESCED,
        SwitchEvent.REFUSED: SwitchState.ABORTED,
        SwitchEvent.FAULT: SwitchState.ABORTED,
        SwitchEvent.TIMEOUT: SwitchState.ABORTED,
    },
    SwitchState.QUIESCED: {
        SwitchEvent.PLAN_MATCHED: SwitchState.TRANSFERRING,
        SwitchEvent.PLAN_MISMATCHED: SwitchState.ABORTED,
        SwitchEvent.FAULT: SwitchState.ABORTED,
        SwitchEvent.TIMEOUT: SwitchState.ABORTED,
    },
    SwitchState.TRANSFERRING: {
        SwitchEvent.ALL_DONE: SwitchState.COMMITTED,
        SwitchEvent.FAULT: SwitchState.ABORTED,
        SwitchEvent.TIMEOUT: SwitchState.ABORTED,
    },
    SwitchState.COMMITTED: {
        SwitchEvent.RESUMED: SwitchState.SERVING,
        SwitchEvent.FAULT: SwitchState.ABORTED,
        SwitchEvent.TIMEOUT: SwitchState.SERVING,
    },
    SwitchState.ABORTED: {
        SwitchEvent.RESUMED: SwitchState.SERVING,
        SwitchEvent.FAULT: SwitchState.ABORTED,
    },
}


def protocol_in(state: SwitchState, *, epoch: int = EPOCH) -> SwitchProtocol:
    return SwitchProtocol(timeout_seconds=20.0, epoch=epoch, state=state, proposed_at=100.0)


def epoch_for(event: SwitchEvent) -> int:
    """The epoch under which an event is new: a proposal opens the next one."""
    return EPOCH + 1 if event is SwitchEvent.PROPOSED else EPOCH


@pytest.mark.parametrize(("state", "event"), PAIRS, ids=lambda value: value.name)
def test_every_pair_has_its_outcome(state: SwitchState, event: SwitchEvent) -> None:
    before = protocol_in(state)
    after = EXPECTED[state].get(event)
    if after is not None:
        proposed_at = 101.0 if event is SwitchEvent.PROPOSED else 100.0
        assert before.apply(event, epoch_for(event), 101.0) == SwitchProtocol(
            timeout_seconds=20.0, epoch=epoch_for(event), state=after, proposed_at=proposed_at
        )
    elif state is SwitchState.SERVING:
        assert before.apply(event, EPOCH, 101.0) is before, "the epoch is closed: dropped"
    else:
        with pytest.raises(IllegalTransition, match=f"{event.value} while {state.value}"):
            before.apply(event, epoch_for(event), 101.0)


@pytest.mark.parametrize(("state", "event"), PAIRS, ids=lambda value: value.name)
def test_a_message_of_an_older_epoch_is_dropped(state: SwitchState, event: SwitchEvent) -> None:
    before = protocol_in(state)
    assert before.apply(event, EPOCH - 1, 101.0) is before


@pytest.mark.parametrize(
    ("state", "event"),
    [pair for pair in PAIRS if pair[1] is not SwitchEvent.PROPOSED],
    ids=lambda value: value.name,
)
def test_a_message_of_an_epoch_never_opened_is_illegal(state: SwitchState, event: SwitchEvent) -> None:
    with pytest.raises(IllegalTransition, match="epoch 8, which was never proposed"):
        protocol_in(state).apply(event, EPOCH + 1, 101.0)


@pytest.mark.parametrize("state", [state for state in SwitchState if state is not SwitchState.SERVING])
def test_each_state_survives_a_fault_and_its_deadline(state: SwitchState) -> None:
    assert TRANSITIONS[state, SwitchEvent.FAULT] is SwitchState.ABORTED
    assert (state in DEADLINE_SHARES) == ((state, SwitchEvent.TIMEOUT) in TRANSITIONS)


def test_serving_is_reached_from_every_state() -> None:
    reaching = {SwitchState.SERVING}
    for _ in SwitchState:
        reaching |= {before for (before, _), after in TRANSITIONS.items() if after in reaching}
    assert reaching == set(SwitchState)


def test_the_deadlines_of_a_switch_follow_each_other_and_end_with_its_timeout() -> None:
    path = (SwitchState.PREPARED, SwitchState.QUIESCED, SwitchState.TRANSFERRING, SwitchState.COMMITTED)
    shares = [DEADLINE_SHARES[state] for state in path]
    assert shares == sorted(set(shares))
    assert shares[0] > 0
    assert shares[-1] == 1.0


def test_a_state_expires_at_its_deadline() -> None:
    prepared = protocol_in(SwitchState.PREPARED)
    assert prepared.remaining_seconds(102.0) == 8.0
    assert prepared.remaining_seconds(109.9) == pytest.approx(0.1)
    assert prepared.remaining_seconds(110.0) == 0.0
    assert prepared.remaining_seconds(200.0) == 0.0


def test_deadlines_count_from_the_proposal() -> None:
    quiesced = protocol_in(SwitchState.PREPARED).apply(SwitchEvent.ALL_AGREED, EPOCH, 109.0)
    assert quiesced.remaining_seconds(109.0) == 3.0
    assert protocol_in(SwitchState.COMMITTED).remaining_seconds(119.0) == 1.0


@pytest.mark.parametrize("state", [SwitchState.SERVING, SwitchState.ABORTED])
def test_a_state_without_a_deadline_never_expires(state: SwitchState) -> None:
    assert protocol_in(state).remaining_seconds(1e9) is None


@given(st.lists(st.tuples(st.sampled_from(SwitchEvent), st.integers(0, 6)), max_size=60))
def test_under_any_messages_the_epoch_never_falls(messages: list[tuple[SwitchEvent, int]]) -> None:
    protocol = SwitchProtocol(timeout_seconds=1.0)
    for now, (event, epoch) in enumerate(messages):
        try:
            after = protocol.apply(event, epoch, float(now))
        except IllegalTransition:
            continue
        if after is not protocol:
            assert epoch >= protocol.epoch
            assert (after.epoch > protocol.epoch) == (event is SwitchEvent.PROPOSED)
        protocol = after

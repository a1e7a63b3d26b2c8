"""The reflector's cache becomes the API server's state, whatever happens on the way."""

from __future__ import annotations

from random import Random

from hypothesis import example, given
from hypothesis import strategies as st

from taper_operator.kube.resource import ObjectKey

from ...examples import examples
from ..clock import Clock
from ..fake_api_server import JOBS, FakeApiServer, make_object
from .reflected_keys import REFUSED, held, make_reflector, versions


class Trouble:
    """Refused connections, forgotten versions, changes within a list, streams that repeat and break."""

    def __init__(self, fake: FakeApiServer, random: Random, share: float) -> None:
        self.fake = fake
        self.random = random
        self.share = share

    def strikes(self, part: float = 1.0) -> bool:
        return self.random.random() < self.share * part

    def fault(self, method: str, path: str) -> None:
        if self.strikes(1 / 3):
            raise REFUSED
        if self.strikes(1 / 3):
            self.fake.compact()
        if method.startswith("after") and self.strikes():
            name = self.random.choice("abcd")
            self.fake.put(JOBS, make_object(JOBS, name, spec={"n": self.random.random()}))

    def garble(self, lines: list[bytes]) -> list[bytes]:
        if self.strikes():
            # Old events once more, after what undid them.
            lines = [*lines[:-1], *lines]
        lines = [line for line in lines for _ in range(2 if self.strikes() else 1)]
        cut = self.random.randrange(len(lines) + 1) if self.strikes() else len(lines)
        half = [lines[cut][: len(lines[cut]) // 2]] if cut < len(lines) else []
        return lines[:cut] + half


ACTION = st.one_of(
    st.tuples(st.just("put"), st.sampled_from("abcd"), st.sampled_from(["team", "other"])),
    st.tuples(st.just("remove"), st.sampled_from("abcd"), st.sampled_from(["team", "other"])),
    st.tuples(st.just("compact"), st.none(), st.none()),
    st.tuples(st.just("step"), st.none(), st.none()),
)


# A change between two pages of a list, of an object whose last change was compacted away.
@example(
    seed=67,
    actions=[("put", "c", "team"), ("put", "d", "team"), ("step", None, None), ("step", None, None)],
    fault_share=0.2,
    page=1,
    namespace="",
)
@examples(200)
@given(
    seed=st.integers(0, 2**32),
    actions=st.lists(ACTION, max_size=40),
    fault_share=st.sampled_from([0.0, 0.2, 0.6]),
    page=st.sampled_from([1, 2, 500]),
    namespace=st.sampled_from(["", "team"]),
)
def test_the_cache_becomes_the_api_servers_state(
    seed: int, actions: list[tuple[str, str, str]], fault_share: float, page: int, namespace: str
) -> None:
    """Objects come and go between pages, streams break in the middle of a line, events come twice."""
    random = Random(seed)
    fake = FakeApiServer(JOBS, page=page)
    clock = Clock()
    reflector, delivered = make_reflector(fake, clock, namespace=namespace)
    trouble = Trouble(fake, random, fault_share)
    fake.fault, fake.garble = trouble.fault, trouble.garble
    for verb, name, space in actions:
        if verb == "put":
            fake.put(JOBS, make_object(JOBS, name, space, spec={"n": random.random()}))
        elif verb == "remove" and ObjectKey(space, name) in fake.all(JOBS):
            fake.remove(JOBS, ObjectKey(space, name))
        elif verb == "compact":
            fake.compact()
        elif verb == "step":
            clock.now += reflector.step()
    trouble.share = 0.0
    for _ in range(4):
        clock.now += 20 + reflector.step()
    assert held(delivered) == versions(fake, namespace)
    # The state of each object when its key was last delivered is its current state.
    assert {key: version for key, version in delivered.seen.items() if version} == held(delivered)
    assert reflector.has_synced

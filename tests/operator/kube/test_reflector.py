"""The reflector: its cache becomes the API server's state, whatever happens on the way."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import pytest
import urllib3
from hypothesis import example, given, settings
from hypothesis import strategies as st

from taper_operator.kube.errors import Unreachable
from taper_operator.kube.informer.cache import ObjectCache
from taper_operator.kube.informer.reflector import Reflector
from taper_operator.kube.resource import KubeObject, ObjectKey, key_of, own_key

from ..clock import Clock
from ..fake_api_server import JOBS, PODS, FakeApiServer, make_object

REFUSED = urllib3.exceptions.ProtocolError("Connection aborted.", ConnectionRefusedError(111))


class DeliveredKeys:
    """Records the delivered keys and the version in the cache at that time, which must never go back."""

    def __init__(self, fake: FakeApiServer) -> None:
        self.fake = fake
        self.keys: list[ObjectKey] = []
        self.seen: dict[ObjectKey, str | None] = {}
        self.next_version: dict[ObjectKey, int] = {}
        self.cache: ObjectCache | None = None

    def __call__(self, key: ObjectKey) -> None:
        self.keys.append(key)
        assert self.cache is not None
        obj = self.cache.get(key)
        self.seen[key] = obj["metadata"]["resourceVersion"] if obj else None
        if obj:
            version = int(obj["metadata"]["resourceVersion"])
            assert version >= self.next_version.get(key, 0), f"{key} went back to {version}"
            self.next_version[key] = version
        elif key in self.next_version:
            # What is deleted does not come back as it was.
            self.next_version[key] += 1


def make_reflector(
    fake: FakeApiServer, clock: Clock | None = None, **options: Any
) -> tuple[Reflector, DeliveredKeys]:
    clock = clock or Clock()
    delivered = DeliveredKeys(fake)
    delivered.cache = options.pop("cache", ObjectCache(keys_of=own_key))
    options = {"deliver": delivered, "clock": clock, "random": Random(1)} | options
    return Reflector(
        fake.api_server(clock), options.pop("resource", JOBS), delivered.cache, **options
    ), delivered


def held(delivered: DeliveredKeys, namespace: str = "") -> dict[ObjectKey, str]:
    assert delivered.cache is not None
    return {
        ObjectKey(obj["metadata"]["namespace"], obj["metadata"]["name"]): obj["metadata"]["resourceVersion"]
        for obj in delivered.cache.objects(namespace=namespace)
    }


def versions(fake: FakeApiServer, namespace: str = "") -> dict[ObjectKey, str]:
    return {key: obj["metadata"]["resourceVersion"] for key, obj in fake.all(JOBS, namespace).items()}


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
@settings(max_examples=200)
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


def test_a_reflector_is_synced_only_after_its_keys_are_delivered() -> None:
    fake = FakeApiServer(JOBS)
    fake.put(JOBS, make_object(JOBS, "a"))
    synced: list[bool] = []
    reflector, delivered = make_reflector(fake, deliver=lambda key: synced.append(reflector.has_synced))
    fake.fault = lambda method, path: (_ for _ in ()).throw(REFUSED)
    reflector.step()
    assert not reflector.has_synced
    fake.fault = lambda method, path: None
    delivered.fake = fake
    reflector, delivered = make_reflector(fake, deliver=lambda key: synced.append(reflector.has_synced))
    reflector.step()
    assert synced == [False]
    assert reflector.has_synced


def test_a_missed_deletion_is_delivered() -> None:
    fake = FakeApiServer(JOBS)
    for name in "abc":
        fake.put(JOBS, make_object(JOBS, name))
    reflector, delivered = make_reflector(fake)
    reflector.step()
    delivered.keys.clear()
    fake.remove(JOBS, ObjectKey("team", "b"))
    fake.put(JOBS, make_object(JOBS, "c", spec={"n": 2}))
    fake.compact()
    reflector.step()
    assert delivered.keys == []
    reflector.step()
    assert delivered.keys == [ObjectKey("team", "b"), ObjectKey("team", "c")]
    assert reflector.num_lists == 2


def test_a_watch_resumes_where_it_was_even_after_a_quiet_time() -> None:
    """Bookmarks keep the resourceVersion of a quiet watch recent."""
    fake = FakeApiServer(JOBS, PODS)
    reflector, _ = make_reflector(fake)
    reflector.step()
    fake.put(PODS, make_object(PODS, "other"))
    fake.compact()
    since = str(fake.version)
    reflector._resource_version = int(since) - 1
    fake.oldest -= 1
    reflector.step()
    reflector.step()
    assert fake.requests[-1][2]["resourceVersion"] == since
    assert reflector.num_lists == 1
    assert fake.requests[-1][2]["allowWatchBookmarks"] == "true"
    assert 240 <= int(fake.requests[-1][2]["timeoutSeconds"]) <= 270


def test_an_api_server_that_went_back_is_listed_again() -> None:
    fake = FakeApiServer(JOBS)
    fake.put(JOBS, make_object(JOBS, "a"))
    reflector, delivered = make_reflector(fake)
    reflector.step()
    fake.remove(JOBS, ObjectKey("team", "a"))
    fake.compact()
    fake.version, fake.oldest = 5, 0
    reflector.step()
    reflector.step()
    assert reflector.num_lists == 2
    assert held(delivered) == {}


def test_at_most_ten_connections_a_minute_to_an_api_server_that_is_down() -> None:
    """Nor does anything keep it from being asked soon after it is back."""
    fake = FakeApiServer(JOBS)
    clock = Clock()
    reflector, delivered = make_reflector(fake, clock)
    reflector.step()
    tried: list[float] = []

    def refuse(method: str, path: str) -> None:
        tried.append(clock.now)
        raise REFUSED

    fake.fault = refuse
    down = clock.now
    while clock.now < down + 180:
        clock.now += reflector.step()
    assert max(len([at for at in tried if begin <= at < begin + 60]) for begin in tried) <= 10
    fake.fault = lambda method, path: None
    fake.put(JOBS, make_object(JOBS, "a"))
    up = clock.now
    while not held(delivered):
        clock.now += reflector.step()
    assert clock.now - up < 20


@pytest.mark.parametrize("status", [403, 429, 500])
def test_failures_in_a_row_are_rate_limited(status: int) -> None:
    fake = FakeApiServer(JOBS)
    clock = Clock()
    reflector, _ = make_reflector(fake, clock)
    tried: list[float] = []
    fake.fault = lambda method, path: tried.append(clock.now)
    fake._handle = lambda *_: _refusal(status)  # type: ignore[method-assign]
    end = clock.now + 120
    while clock.now < end:
        clock.now += reflector.step()
    tried = tried[::2]
    assert max(len([at for at in tried if begin <= at < begin + 60]) for begin in tried) <= 10
    assert not reflector.has_synced


def test_watches_that_end_at_once_do_not_spin() -> None:
    fake = FakeApiServer(JOBS)
    reflector, _ = make_reflector(fake)
    assert [reflector.step() >= 1 for _ in range(5)] == [True] * 5


def test_a_watch_that_breaks_after_a_long_life_resumes_at_once() -> None:
    fake = FakeApiServer(JOBS)
    clock = Clock()
    reflector, _ = make_reflector(fake, clock)

    def pass_time(lines: list[bytes]) -> list[bytes]:
        clock.now += 270
        return lines

    fake.garble = pass_time
    assert reflector.step() == 0


def test_an_optional_kind_that_is_not_served_is_empty() -> None:
    fake = FakeApiServer()
    reflector, delivered = make_reflector(fake, is_optional=True)
    reflector.step()
    assert reflector.has_synced
    assert not reflector.is_served
    fake.resources |= FakeApiServer(JOBS).resources
    fake.put(JOBS, make_object(JOBS, "a"))
    reflector.step()
    assert reflector.is_served
    assert delivered.keys == [ObjectKey("team", "a")]
    fake.resources = {}
    reflector.step()
    assert not reflector.is_served
    reflector.step()
    assert held(delivered) == {}
    assert delivered.keys == [ObjectKey("team", "a")] * 2


def test_a_required_kind_that_is_not_served_is_waited_for() -> None:
    reflector, _ = make_reflector(FakeApiServer())
    reflector.step()
    assert not reflector.has_synced


def test_reflectors_of_several_namespaces_share_a_cache() -> None:
    fake = FakeApiServer(JOBS)
    for namespace in ("one", "two", "three"):
        fake.put(JOBS, make_object(JOBS, "a", namespace))
    first, delivered = make_reflector(fake, namespace="one")
    second, _ = make_reflector(fake, namespace="two", cache=delivered.cache)
    for _ in range(2):
        first.step()
        second.step()
        fake.compact()
    assert {key.namespace for key in held(delivered)} == {"one", "two"}


def test_an_event_that_failed_is_delivered_again() -> None:
    """An object that cannot be understood must not end the thread, nor be passed over for ever."""
    fake = FakeApiServer(JOBS)
    reflector, delivered = make_reflector(fake)
    reflector.step()
    fake.put(JOBS, make_object(JOBS, "a"))
    fake.garble = lambda lines: [line.replace(b'"resourceVersion"', b'"nothing"') for line in lines]
    assert reflector.step() > 0
    assert held(delivered) == {}
    fake.garble = lambda lines: lines
    reflector.step()
    assert list(held(delivered)) == [ObjectKey("team", "a")]


def test_a_request_held_back_is_retried_soon_and_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    fake = FakeApiServer(JOBS)
    reflector, _ = make_reflector(fake)

    def hold_back(*_: object, **__: object) -> None:
        raise Unreachable("held back", retry_after_seconds=1.0)

    reflector._api_server.list = hold_back  # type: ignore[method-assign, assignment]
    assert all(1.0 <= reflector.step() <= 1.5 for _ in range(20))
    assert caplog.records == []


def _refusal(status: int) -> Any:
    from ..fake_api_server import FakeHttpResponse, status_body

    return FakeHttpResponse(status, json.dumps(status_body(status, "", "no")).encode())


def keys_of_readable(obj: KubeObject) -> list[ObjectKey]:
    """Stands for whatever may go wrong with an object."""
    if obj["spec"].get("n") == "unreadable":
        raise LookupError("unreadable")
    return [key_of(obj)]


def put(fake: FakeApiServer, **contents: Any) -> None:
    for name, content in contents.items():
        fake.put(JOBS, make_object(JOBS, name, spec={"n": content}))


def test_an_unreadable_object_is_skipped_in_lists_and_watches() -> None:
    fake = FakeApiServer(JOBS)
    warned: list[tuple[str, str]] = []
    reflector, delivered = make_reflector(
        fake,
        cache=ObjectCache(keys_of=keys_of_readable),
        warn=lambda obj, error: warned.append((obj["metadata"]["name"], str(error))),
    )
    put(fake, a=1, b="unreadable", c=1)
    reflector.step()
    assert reflector.has_synced
    assert [key.name for key in held(delivered)] == ["a", "c"]
    assert reflector.num_unreadable == 1
    # One more, of which the cache has held an earlier version; and once more, which nobody has to know.
    put(fake, a="unreadable", c=2, d=1)
    put(fake, a="unreadable")
    delivered.keys.clear()
    reflector.step()
    assert held(delivered) == {k: v for k, v in versions(fake).items() if k.name in "cd"}
    assert [key.name for key in delivered.keys] == ["a", "c", "d"]
    assert warned == [("b", "unreadable"), ("a", "unreadable")]
    assert reflector.num_unreadable == 2
    # No event comes again.
    assert fake.requests[-1][2]["resourceVersion"] < str(fake.version)
    reflector.step()
    assert fake.requests[-1][2]["resourceVersion"] == str(fake.version)
    assert reflector.num_lists == 1
    # What can be read again, or goes, is no trouble any more.
    put(fake, a=3)
    fake.remove(JOBS, ObjectKey("team", "b"))
    reflector.step()
    assert (reflector.num_unreadable, [key.name for key in held(delivered)]) == (0, ["a", "c", "d"])


def test_an_event_without_a_version_is_skipped() -> None:
    fake = FakeApiServer(JOBS)
    reflector, delivered = make_reflector(fake)
    reflector.step()
    put(fake, a=1, b=1)
    fake.garble = lambda lines: [b'{"type": "MODIFIED", "object": {"metadata": 1}}\n', *lines]
    reflector.step()
    assert [key.name for key in held(delivered)] == ["a", "b"]
    assert reflector.num_unreadable == 1


def test_an_outdated_cache_is_reported_as_trouble() -> None:
    fake = FakeApiServer(JOBS)
    clock = Clock()
    reflector, _ = make_reflector(fake, clock)
    assert reflector.trouble == "not synced"
    reflector.step()
    assert reflector.trouble == ""
    # Connected each time, and never an event that can be used.
    fake.garble = lambda lines: [b"{\n"]
    failing_since = clock.now
    while clock.now < failing_since + 70:
        clock.now += reflector.step()
        assert reflector.trouble == ""
    while clock.now < failing_since + 130:
        clock.now += reflector.step()
    assert reflector.trouble.startswith("out of date for 1")
    assert reflector.has_synced
    fake.garble = lambda lines: lines
    reflector.step()
    assert reflector.trouble == ""


def test_a_quiet_watch_and_an_absent_optional_kind_are_no_trouble() -> None:
    fake = FakeApiServer()
    clock = Clock()
    reflector, _ = make_reflector(fake, clock, is_optional=True)
    for _ in range(30):
        clock.now += reflector.step()
    assert reflector.trouble == ""
    fake.resources |= FakeApiServer(JOBS).resources

    def pass_time(lines: list[bytes]) -> list[bytes]:
        clock.now += 250
        return []

    fake.garble = pass_time
    for _ in range(3):
        clock.now += reflector.step()
        assert reflector.trouble == ""

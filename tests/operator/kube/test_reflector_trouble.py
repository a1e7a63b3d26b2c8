"""What a reflector cannot read, and when it reports that its cache is out of date."""

from __future__ import annotations

from typing import Any

from taper_operator.kube.informer.cache import ObjectCache
from taper_operator.kube.resource import KubeObject, ObjectKey, key_of

from ..clock import Clock
from ..fake_api_server import JOBS, FakeApiServer, make_object
from .reflected_keys import held, make_reflector, versions


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

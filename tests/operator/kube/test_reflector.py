"""The reflector: what it lists, watches and delivers."""

from __future__ import annotations

from taper_operator.kube.resource import ObjectKey

from ..fake_api_server import JOBS, PODS, FakeApiServer, make_object
from .reflected_keys import REFUSED, held, make_reflector


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

"""The cache and its indexes, against a plain dictionary."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from taper_operator.kube.informer.cache import ObjectCache
from taper_operator.kube.resource import KubeObject, ObjectKey, key_of, own_key

from ...examples import examples
from ..clock import Clock
from ..fake_api_server import PODS, make_object

LABEL = "taper.dev/job"
SMALL = st.sampled_from(["a", "b", "c"])


@st.composite
def pods(draw: st.DrawFn) -> KubeObject:
    pod = make_object(
        PODS,
        draw(SMALL),
        namespace=draw(SMALL),
        labels=draw(st.dictionaries(st.sampled_from([LABEL, "other"]), SMALL)),
        owners=draw(st.sets(SMALL)),
    )
    pod["metadata"]["resourceVersion"] = draw(st.sampled_from("123456789"))
    return pod


def job_of(pod: KubeObject) -> list[ObjectKey]:
    job = pod["metadata"]["labels"].get(LABEL)
    return [ObjectKey(pod["metadata"]["namespace"], job)] if job else []


CHANGE = st.one_of(
    st.tuples(st.just("put"), pods()),
    st.tuples(st.just("remove"), st.builds(ObjectKey, SMALL, SMALL)),
    st.tuples(
        st.just("replace"),
        st.tuples(st.lists(pods(), max_size=5, unique_by=key_of), st.sampled_from(["", "a"])),
    ),
)


@examples(60)
@given(st.lists(CHANGE, max_size=12))
def test_cache_and_index_behave_like_a_dictionary(changes: list[tuple[str, object]]) -> None:
    cache = ObjectCache(keys_of=job_of)
    model: dict[ObjectKey, KubeObject] = {}
    for verb, change in changes:
        before = dict(model)
        if verb == "put":
            reported = cache.put(change)  # type: ignore[arg-type]
            model[key_of(change)] = change  # type: ignore[arg-type, assignment]
            before.pop(key_of(change), None)  # type: ignore[arg-type]
        elif verb == "remove":
            reported = cache.remove(change)  # type: ignore[arg-type]
            model.pop(change, None)  # type: ignore[call-overload]
        else:
            listed, namespace = change  # type: ignore[misc]
            listed = [pod for pod in listed if namespace in ("", key_of(pod).namespace)]
            reported = cache.replace(listed, namespace=namespace)
            for key in [key for key in model if namespace in ("", key.namespace)]:
                del model[key]
            unchanged = {
                key_of(pod): before[key_of(pod)]
                for pod in listed
                if key_of(pod) in before and _version(before[key_of(pod)]) == _version(pod)
            }
            # One resourceVersion is one state of an object.
            model |= {key_of(pod): pod for pod in listed} | unchanged
        assert reported >= {
            key
            for pods in (model, before)
            for pod in pods.values()
            for key in job_of(pod)
            if before.get(key_of(pod)) != model.get(key_of(pod))
        }
        assert [cache.get(key) for key in sorted(cache._entries)] == [model[key] for key in sorted(model)]
        for value in "abc":
            assert cache.of(ObjectKey("b", value)) == [
                model[key]
                for key in sorted(model)
                if key.namespace == "b" and model[key]["metadata"]["labels"].get(LABEL) == value
            ]


def _version(pod: KubeObject) -> str:
    return str(pod["metadata"]["resourceVersion"])


def test_a_reader_gets_a_copy_of_its_own() -> None:
    cache = ObjectCache(keys_of=own_key)
    pod = make_object(PODS, "a", spec={"containers": [{"name": "x"}]})
    pod["metadata"]["resourceVersion"] = "1"
    cache.put(pod)
    key = key_of(pod)
    read = cache.get(key)
    assert read is not None
    read["spec"]["containers"].clear()
    pod["spec"]["containers"].clear()
    assert cache.get(key) == make_object(PODS, "a", spec={"containers": [{"name": "x"}]}) | {
        "metadata": {"name": "a", "namespace": "team", "resourceVersion": "1"}
    }
    assert cache.get(ObjectKey("team", "b")) is None


def test_unused_fields_are_not_cached() -> None:
    cache = ObjectCache(keys_of=own_key)
    pod = make_object(PODS, "a")
    pod["metadata"] |= {
        "resourceVersion": "1",
        "managedFields": [{"manager": "kubectl"}],
        "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}", "kept": "yes"},
    }
    cache.put(pod)
    read = cache.get(key_of(pod))
    assert read is not None
    assert "managedFields" not in read["metadata"]
    assert read["metadata"]["annotations"] == {"kept": "yes"}
    assert "managedFields" in pod["metadata"]


def test_an_object_that_changed_its_job_is_delivered_to_both_jobs() -> None:
    cache = ObjectCache(keys_of=job_of)
    pod = make_object(PODS, "a", labels={LABEL: "one"})
    pod["metadata"]["resourceVersion"] = "1"
    assert cache.put(pod) == {ObjectKey("team", "one")}
    pod["metadata"] |= {"labels": {LABEL: "two"}, "resourceVersion": "2"}
    assert cache.put(pod) == {ObjectKey("team", "one"), ObjectKey("team", "two")}
    assert cache.remove(key_of(pod)) == {ObjectKey("team", "two")}


def test_a_deleted_object_is_kept_for_a_while_in_its_last_state() -> None:
    clock = Clock()
    cache = ObjectCache(keys_of=job_of, departed_seconds=60.0, clock=clock)
    pod = make_object(PODS, "a", labels={LABEL: "one"})
    for version in "12":
        pod["metadata"]["resourceVersion"] = version
        cache.put(pod)
    assert cache.departed(ObjectKey("team", "one")) == []
    cache.remove(key_of(pod))
    for namespace, value, found in (("team", "one", [pod]), ("other", "one", []), ("team", "two", [])):
        assert cache.departed(ObjectKey(namespace, value)) == found
    clock.now += 59.0
    assert cache.departed(ObjectKey("team", "one")) == [pod]
    clock.now += 1.0
    assert cache.departed(ObjectKey("team", "one")) == []


def test_a_recreated_object_is_not_departed() -> None:
    cache = ObjectCache(keys_of=job_of, departed_seconds=60.0, clock=Clock())
    pod = make_object(PODS, "a", labels={LABEL: "one"})
    pod["metadata"]["resourceVersion"] = "1"
    cache.put(pod)
    cache.replace([])
    assert cache.departed(ObjectKey("team", "one")) == [pod]
    cache.put(pod)
    assert cache.departed(ObjectKey("team", "one")) == []

"""Requests as they leave, and answers and failures as they come back, from memory."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import urllib3

from taper_operator.kube import errors as api_error
from taper_operator.kube.client import ApiServer
from taper_operator.kube.errors import ApiError
from taper_operator.kube.resource import ObjectKey, Resource, key_of

from ..deep_json import DEEP, DeepApiServer, nested
from ..fake_api_server import JOBS, PODS, FakeApiServer, FakeHttpResponse, make_object, status_body

KEY = ObjectKey("team", "a")
NODES = Resource(group="", version="v1", plural="nodes", kind="Node", is_namespaced=False)


def answering(status: int, body: Any) -> tuple[ApiServer, FakeApiServer]:
    fake = FakeApiServer(JOBS)
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    fake._handle = lambda *_: FakeHttpResponse(status, text)  # type: ignore[method-assign]
    return fake.api_server(), fake


# -- requests --------------------------------------------------------------------------


def test_paths_are_those_of_the_api() -> None:
    fake = FakeApiServer(JOBS, PODS, NODES)
    server = fake.api_server()
    for resource, namespace in ((JOBS, "team"), (JOBS, ""), (PODS, "team"), (NODES, "team")):
        server.list(resource, namespace=namespace)
    assert [path for _, path, _, _ in fake.requests] == [
        "/apis/taper.dev/v1alpha1/namespaces/team/rlhfjobs",
        "/apis/taper.dev/v1alpha1/rlhfjobs",
        "/api/v1/namespaces/team/pods",
        "/api/v1/nodes",
    ]


def test_a_name_cannot_leave_its_place_in_the_path() -> None:
    fake = FakeApiServer(JOBS)
    with pytest.raises(ApiError):
        fake.api_server().get(JOBS, ObjectKey("team", "../../pods?x=1"))
    assert fake.requests[0][1].endswith("/rlhfjobs/..%2F..%2Fpods%3Fx%3D1")


def test_a_list_reads_all_pages_and_returns_their_version() -> None:
    fake = FakeApiServer(PODS, page=2)
    for name in "abcde":
        fake.put(PODS, make_object(PODS, name, labels={"x": "y" if name != "c" else "z"}))
    listed = fake.api_server().list(PODS, namespace="team", label_selector="x=y")
    assert [pod["metadata"]["name"] for pod in listed.items] == ["a", "b", "d", "e"]
    assert {(pod["apiVersion"], pod["kind"]) for pod in listed.items} == {("v1", "Pod")}
    assert listed.resource_version == str(fake.version)
    assert [query.get("continue") for _, _, query, _ in fake.requests] == [None, f"{fake.version}:2"]
    assert "resourceVersion" not in fake.requests[0][2]


def test_a_list_whose_next_page_is_too_old_is_gone() -> None:
    fake = FakeApiServer(PODS, page=1)
    for name in "ab":
        fake.put(PODS, make_object(PODS, name))

    def change_meanwhile(method: str, path: str) -> None:
        if method == "after GET":
            fake.put(PODS, make_object(PODS, "c"))
            fake.compact()

    fake.fault = change_meanwhile
    with pytest.raises(api_error.Gone):
        fake.api_server().list(PODS)


def test_the_parameters_of_writes() -> None:
    fake = FakeApiServer(JOBS)
    server = fake.api_server()
    created = server.create(JOBS, make_object(JOBS, "a"))
    server.apply(JOBS, {"metadata": {"name": "a", "namespace": "team"}, "spec": {"n": 1}})
    applied = server.apply_status(JOBS, make_object(JOBS, "a", status={"x": 1}), field_manager="progress")
    server.replace(JOBS, applied | {"status": {"x": 2}}, subresource="status")
    server.delete(JOBS, KEY, uid=created["metadata"]["uid"])
    methods = [(method, path.rpartition("/")[2]) for method, path, _, _ in fake.requests]
    assert methods == [
        ("POST", "rlhfjobs"), ("PATCH", "a"), ("PATCH", "status"), ("PUT", "status"), ("DELETE", "a"),
    ]  # fmt: skip
    create, apply, status, replace, delete = (query for _, _, query, _ in fake.requests)
    assert create == {"fieldManager": "test", "fieldValidation": "Strict", "timeout": "60000ms"}
    assert (apply["force"], apply["fieldManager"]) == ("true", "test")
    assert fake.requests[1][3]["kind"] == "RLHFJob"
    assert status["fieldManager"] == "progress"
    assert replace["fieldValidation"] == "Strict"
    assert delete == {"timeout": "60000ms"}
    assert fake.requests[4][3] == {
        "apiVersion": "v1",
        "kind": "DeleteOptions",
        "preconditions": {"uid": created["metadata"]["uid"]},
        "propagationPolicy": "Background",
    }


def test_preconditions_are_held() -> None:
    fake = FakeApiServer(JOBS)
    server = fake.api_server()
    job = fake.put(JOBS, make_object(JOBS, "a"))
    fake.put(JOBS, make_object(JOBS, "a", spec={"n": 2}))
    with pytest.raises(api_error.Conflict, match="modified"):
        server.replace(JOBS, job)
    with pytest.raises(api_error.Conflict, match="Precondition"):
        server.delete(JOBS, KEY, uid="another")
    with pytest.raises(AssertionError):
        server.replace(JOBS, make_object(JOBS, "a"))
    with pytest.raises(api_error.AlreadyExists):
        server.create(JOBS, make_object(JOBS, "a"))


def test_objects_of_any_depth_are_decoded() -> None:
    fake = DeepApiServer(JOBS, levels=100_000)
    fake.put(JOBS, make_object(JOBS, "a", spec={"verl": DEEP}))
    fake.put(JOBS, make_object(JOBS, "b"))
    server = fake.api_server()
    assert [key_of(obj).name for obj in server.list(JOBS).items] == ["a", "b"]
    assert key_of(server.get(JOBS, KEY)) == KEY
    (added, *_) = server.watch(JOBS, resource_version="1000")
    assert key_of(added.object) == KEY


# -- failures --------------------------------------------------------------------------


def test_a_refusal_of_any_depth_is_an_error_of_its_status() -> None:
    server, _ = answering(403, nested(100_000))
    with pytest.raises(api_error.Forbidden):
        server.get(JOBS, KEY)


@pytest.mark.parametrize(
    ("status", "reason", "kind"),
    [
        (400, "BadRequest", api_error.BadRequest),
        (401, "Unauthorized", api_error.Unauthorized),
        (403, "Forbidden", api_error.Forbidden),
        (404, "NotFound", api_error.NotFound),
        (409, "Conflict", api_error.Conflict),
        (409, "AlreadyExists", api_error.AlreadyExists),
        (410, "Expired", api_error.Gone),
        (410, "Gone", api_error.Gone),
        (413, "RequestEntityTooLarge", ApiError),
        (422, "Invalid", api_error.Invalid),
        (429, "TooManyRequests", api_error.TooManyRequests),
        (500, "InternalError", api_error.ServerError),
        (503, "ServiceUnavailable", api_error.ServerError),
        (504, "Timeout", api_error.ServerError),
    ],
)
def test_each_status_has_its_error(status: int, reason: str, kind: type[ApiError]) -> None:
    details = {"name": "a", "retryAfterSeconds": 3}
    server, _ = answering(status, status_body(status, reason, "it is so", details))
    with pytest.raises(ApiError, match="it is so") as caught:
        server.get(JOBS, KEY)
    assert type(caught.value) is kind
    assert (caught.value.status, caught.value.retry_after_seconds) == (status, 3.0)


def test_an_unserved_kind_is_distinguished_from_a_missing_object() -> None:
    fake = FakeApiServer(JOBS)
    with pytest.raises(api_error.ResourceNotServed):
        fake.api_server().list(PODS)
    with pytest.raises(api_error.NotFound) as caught:
        fake.api_server().get(JOBS, KEY)
    assert type(caught.value) is api_error.NotFound


@pytest.mark.parametrize("body", [b"<html>Bad gateway</html>", b"", b"[1]", b'{"kind": "Other"}', b"\xff"])
def test_a_proxys_answer_is_an_error_too(body: bytes) -> None:
    server, _ = answering(502, body)
    with pytest.raises(api_error.ServerError):
        server.get(JOBS, KEY)
    server, _ = answering(200, b"<html>Log in</html>")
    with pytest.raises(api_error.Unreachable):
        server.get(JOBS, KEY)
    server, _ = answering(302, body)
    with pytest.raises(ApiError):
        server.get(JOBS, KEY)


@pytest.mark.parametrize(
    ("header", "seconds"), [("7", 7.0), ("Wed, 21 Oct 2026 07:28:00 GMT", None), ("-1", None), ("1e9", None)]
)
def test_a_sensible_retry_after_is_used(header: str, seconds: float | None) -> None:
    fake = FakeApiServer(JOBS)
    headers = {"Retry-After": header}
    fake._handle = lambda *_: FakeHttpResponse(429, b"", headers=headers)  # type: ignore[method-assign]
    with pytest.raises(api_error.TooManyRequests) as caught:
        fake.api_server().get(JOBS, KEY)
    assert caught.value.retry_after_seconds == seconds


def test_every_request_is_observed() -> None:
    observed: list[tuple[str, int]] = []
    fake = FakeApiServer(JOBS)
    server = fake.api_server(observe=lambda method, status: observed.append((method, status)))
    server.create(JOBS, make_object(JOBS, "a"))
    with pytest.raises(ApiError):
        server.create(JOBS, make_object(JOBS, "a"))

    def refuse(method: str, path: str) -> None:
        raise urllib3.exceptions.NewConnectionError(None, "refused")  # type: ignore[arg-type]

    fake.fault = refuse
    with pytest.raises(api_error.Unreachable):
        server.get(JOBS, KEY)
    assert observed == [("POST", 201), ("POST", 409), ("GET", 0)]


# -- the fence -------------------------------------------------------------------------


def test_viewers_may_only_read() -> None:
    fake = FakeApiServer(JOBS)
    job = fake.put(JOBS, make_object(JOBS, "a"))
    server = fake.api_server(write_seconds_left=lambda: 0.0)
    writes: list[Callable[[], object]] = [
        lambda: server.create(JOBS, make_object(JOBS, "b")),
        lambda: server.apply(JOBS, make_object(JOBS, "b")),
        lambda: server.apply_status(JOBS, make_object(JOBS, "a")),
        lambda: server.replace(JOBS, job),
        lambda: server.delete(JOBS, KEY, uid=job["metadata"]["uid"]),
    ]
    for write in writes:
        with pytest.raises(api_error.NotLeader):
            write()
    assert fake.requests == []
    assert server.get(JOBS, KEY) == job


@pytest.mark.parametrize(("left", "timeout"), [(4.25, "4250ms"), (0.0001, "1ms"), (1e9, "60000ms")])
def test_a_write_carries_its_timeout(left: float, timeout: str) -> None:
    fake = FakeApiServer(JOBS)
    fake.api_server(write_seconds_left=lambda: left).create(JOBS, make_object(JOBS, "a"))
    assert fake.requests[0][2]["timeout"] == timeout

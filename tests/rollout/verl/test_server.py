"""VeRL's server interface, method by method, with a fake coordinator that lists its calls."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from taper_rollout.events import Event, Failure, LedgerEntry, StageProgress, Step
from taper_rollout.verl import server as server_module

LEDGER_ENTRY = LedgerEntry(replica=0, at=0.0, entry={})


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FakeGenerated:
    token_ids: list[int]
    log_probs: list[float] | None
    stop_reason: str
    num_preempted: int


class FakeCoordinator:
    def __init__(self, settings: Any, emit: Callable[[Any], None]) -> None:
        self.settings = settings
        self.emit = emit
        self.calls: list[tuple[Any, ...]] = []
        self.error: Exception | None = None

    async def start(self) -> None:
        self.calls.append(("start",))
        self.emit(StageProgress(replica=0, step=0, running=0, finished=0, degree=1, num_ranks=2))

    async def generate(
        self, *, request_id: str, prompt_ids: list[int], sampling: dict[str, Any], logprobs: bool
    ) -> FakeGenerated:
        self.calls.append(("generate", request_id, prompt_ids, sampling, logprobs))
        if self.error is not None:
            raise self.error
        return FakeGenerated(
            token_ids=[7, 8],
            log_probs=[-0.5, -0.25] if logprobs else None,
            stop_reason="completed",
            num_preempted=1,
        )

    async def sleep(self, tags: tuple[str, ...] | None = None) -> None:
        self.calls.append(("sleep", tags))

    async def wake_up(self, tags: tuple[str, ...] | None = None) -> None:
        self.calls.append(("wake_up", tags))

    async def abort_all(self, *, reject: bool = False) -> None:
        self.calls.append(("abort_all", reject))

    async def resume_generation(self) -> None:
        self.calls.append(("resume_generation",))

    async def clear_kv_cache(self) -> None:
        self.calls.append(("clear_kv_cache",))

    async def set_global_steps(self, step: int) -> None:
        self.calls.append(("set_global_steps", step))

    async def update_weights(self, *, source: str, arguments: list[dict[str, Any]]) -> None:
        self.calls.append(("update_weights", source, arguments))

    def address(self) -> tuple[str, int]:
        return "127.0.0.1", 12345

    async def close(self) -> None:
        self.calls.append(("close",))


class Arrived:
    """A post that has been delivered already."""

    def __await__(self) -> Iterator[Any]:
        return iter(())


class Posts:
    """A fake handle of the reporter or a metrics host. `arrival` makes the awaitable of a post."""

    def __init__(self, arrival: Callable[[], Any] = lambda: Arrived()) -> None:
        self.events: list[Event] = []
        self._arrival = arrival
        self.post = SimpleNamespace(remote=self._take)

    def _take(self, event: Event) -> Any:
        self.events.append(event)
        return self._arrival()


@pytest.fixture
def posts(monkeypatch: pytest.MonkeyPatch) -> Posts:
    posts = Posts()
    coordinator = ModuleType("taper_rollout.replica.coordinator")
    coordinator.__dict__.update(Coordinator=FakeCoordinator)
    monkeypatch.setitem(sys.modules, "taper_rollout.replica.coordinator", coordinator)
    monkeypatch.setattr(server_module.ray, "get_actor", lambda name: posts)
    return posts


def server_of(
    tmp_path: Path, *, free_cache_engine: bool = True, run: str | None = "run", metrics_host: Any = None
) -> Any:
    return server_module.ReplicaServer(
        SimpleNamespace(replica=0, context_tokens=80),
        response_length=16,
        free_cache_engine=free_cache_engine,
        run=run,
        metrics_host=metrics_host or Posts(),
        profiles=str(tmp_path),
    )


def ask(server: Any, method: str, *arguments: Any, **named: Any) -> Any:
    return asyncio.run(getattr(server, method)(*arguments, **named))


def test_generate_is_verls_token_output(posts: Posts, tmp_path: Path) -> None:
    server = server_of(tmp_path)
    ask(server, "set_global_steps", 3)
    output = ask(
        server,
        "generate",
        request_id="r",
        prompt_ids=[1, 2],
        sampling_params={"temperature": 1.0, "logprobs": True},
        image_data=None,
        video_data=None,
        priority=0,
    )
    assert (output.token_ids, output.log_probs, output.stop_reason) == ([7, 8], [-0.5, -0.25], "completed")
    assert (output.num_preempted, output.extra_fields) == (1, {"global_steps": 3})
    call = server._coordinator.calls[-1]
    assert call == ("generate", "r", [1, 2], {"temperature": 1.0, "max_new_tokens": 16}, True)


def test_images_are_refused(posts: Posts, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="images, video and audio are not supported"):
        ask(server_of(tmp_path), "generate", "r", [1], {}, image_data=[object()])


def test_a_failed_request_is_reported_to_the_run(posts: Posts, tmp_path: Path) -> None:
    server = server_of(tmp_path)
    server._coordinator.error = RuntimeError("rank 1 died")
    with pytest.raises(RuntimeError, match="rank 1 died"):
        ask(server, "generate", "r", [1], {})
    assert posts.events == [Failure(message="replica 0: RuntimeError: rank 1 died")]


def test_events_go_to_the_run(posts: Posts, tmp_path: Path) -> None:
    ask(server_of(tmp_path), "launch")
    assert isinstance(posts.events[0], StageProgress)
    ask(server_of(tmp_path, run=None), "launch")
    assert len(posts.events) == 1


@pytest.mark.parametrize("run", ["run", None])
def test_events_go_to_the_metrics_with_or_without_a_run(
    posts: Posts, tmp_path: Path, run: str | None
) -> None:
    host = Posts()
    server = server_of(tmp_path, run=run, metrics_host=host)
    ask(server, "launch")
    server._emit(LEDGER_ENTRY)  # which may be long, and holds no figure of theirs
    server._emit(Step(step=1, metrics={}))
    assert [type(event) for event in host.events] == [StageProgress, Step]


def test_a_metrics_host_that_accepts_no_posts_is_ignored(posts: Posts, tmp_path: Path) -> None:
    def swamped() -> None:
        raise RuntimeError("too many pending calls")

    server = server_of(tmp_path, metrics_host=Posts(swamped))
    ask(server, "launch")
    assert ask(server, "generate", "r", [1], {}).token_ids == [7, 8]
    ask(server, "close")
    assert [type(event) for event in posts.events] == [StageProgress]


def test_closing_waits_for_the_last_posts_up_to_a_deadline(
    posts: Posts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "POST_SECONDS", 1.0)

    async def close(result: Callable[[asyncio.Future[None]], Any]) -> tuple[float, bool]:
        """How many seconds closing took, and whether the post had been delivered by then."""
        loop = asyncio.get_running_loop()
        post: asyncio.Future[None] = loop.create_future()
        server = server_of(tmp_path, metrics_host=Posts(lambda: post))
        await server.launch()
        server._emit(LEDGER_ENTRY)  # not sent there: the post before it is the last
        result(post)
        began = loop.time()
        await server.close()
        return loop.time() - began, post.done() and not post.cancelled()

    def soon(post: asyncio.Future[None]) -> None:
        asyncio.get_running_loop().call_later(0.05, post.set_result, None)

    assert asyncio.run(close(soon))[1]
    assert asyncio.run(close(lambda post: post.set_exception(RuntimeError("the host died"))))[0] < 0.8
    assert 0.8 < asyncio.run(close(lambda post: None))[0] < 10


@pytest.mark.parametrize(
    ("method", "arguments", "call"),
    [
        ("sleep", (), ("sleep", None)),
        ("wake_up", (), ("wake_up", None)),
        ("resume", (["weights"],), ("wake_up", ("weights",))),
        ("release_kv_cache", (), ("sleep", ("kv_cache",))),
        ("resume_kv_cache", (), ("wake_up", ("kv_cache",))),
    ],
)
def test_memory_is_released_and_allocated_if_free_cache_engine_is_on(
    posts: Posts, tmp_path: Path, method: str, arguments: tuple[Any, ...], call: tuple[Any, ...]
) -> None:
    server = server_of(tmp_path)
    ask(server, method, *arguments)
    assert server._coordinator.calls == [call]
    keeping = server_of(tmp_path, free_cache_engine=False)
    ask(keeping, method, *arguments)
    assert keeping._coordinator.calls == []


@pytest.mark.parametrize(
    ("method", "named", "calls"),
    [
        ("abort_all_requests", {"reject_request": True}, [("abort_all", True)]),
        ("resume_generation", {}, [("resume_generation",)]),
        ("clear_kv_cache", {}, [("clear_kv_cache",)]),
        (
            "update_weights",
            {"source": "m:f", "arguments": [{"a": 1}], "version": 4},
            [("update_weights", "m:f", [{"a": 1}]), ("set_global_steps", 5)],
        ),
        ("set_stage", {"step": 7}, [("set_global_steps", 7)]),
        ("close", {}, [("close",)]),
    ],
)
def test_control_calls_reach_the_coordinator(
    posts: Posts, tmp_path: Path, method: str, named: dict[str, Any], calls: list[tuple[Any, ...]]
) -> None:
    server = server_of(tmp_path)
    ask(server, method, **named)
    assert server._coordinator.calls == calls


def test_the_address_is_the_coordinators(posts: Posts, tmp_path: Path) -> None:
    assert ask(server_of(tmp_path), "get_server_address") == ("127.0.0.1", 12345)


def test_two_servers_have_different_weight_channels(posts: Posts, tmp_path: Path) -> None:
    assert ask(server_of(tmp_path), "get_weight_channel") != ask(server_of(tmp_path), "get_weight_channel")


def test_a_profile_is_a_trace_of_its_requests(posts: Posts, tmp_path: Path) -> None:
    server = server_of(tmp_path)
    ask(server, "generate", "before", [1], {})
    ask(server, "start_profile", profile_step=2)
    ask(server, "generate", "during", [1], {})
    ask(server, "set_global_steps", 2)
    ask(server, "stop_profile")
    trace = json.loads((tmp_path / "replica0_step2.trace.json").read_text())
    assert [(event["name"], event["args"]) for event in trace["traceEvents"]] == [("during", {"tokens": 2})]
    ask(server, "stop_profile")  # nothing runs: nothing is written
    assert len(list(tmp_path.iterdir())) == 1

"""The facade's end of one live SGLang engine over a footprint of ranks.

SGLang's own `Engine` runs in this process (its tokenizer manager turns requests into
scheduler messages and outputs back into results); its scheduler processes are Taper's
ranks, and between the two sits a router.

Private names touched, read at SGLang 0.5.23: `TokenizerManager._dispatch_to_scheduler`,
`_async_dispatch_to_scheduler`, `_subprocess_watchdog`, `rid_to_state`, `send_to_scheduler`;
`load_snapshot.shm_path_for`.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import json
import os
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import zmq
import zmq.asyncio
from sglang.srt.managers import load_snapshot
from sglang.srt.managers.io_struct import AbortReq, GenerateReqInput, RpcReqInput
from sglang.srt.utils.hf_transformers_utils import get_tokenizer
from sglang.srt.utils.network import get_zmq_socket

from taper_policy.layout import leaders
from taper_policy.profile.kv_choice import KvMode, kv_as_json
from taper_rollout.sglang.engine_settings import EngineSettings, environment
from taper_rollout.sglang.rank_process import RankSettings, SegmentMap, input_address, run_rank
from taper_rollout.sglang.rank_process_engine import RankProcessEngine
from taper_rollout.sglang.router import Router, bounded
from taper_rollout.shared_memory.rank_record import RecordReader, check_platform, name_request
from taper_rollout.shared_memory.segment import Segment
from taper_rollout.switching.agent import COMMAND_METHOD, Command

WORDS_SECONDS = 0.2


class EngineDied(RuntimeError):
    """A rank's process is gone or has reported a fault that it cannot survive."""


class CommandFailed(RuntimeError):
    """A command was refused or failed; the engine serves on."""


class ElasticEngine:
    """A running engine whose layout can change. Use from one asyncio loop; `start` blocks in a thread."""

    def __init__(self, settings: EngineSettings) -> None:
        check_platform()
        self.settings = settings
        self.degree = settings.degrees[0]
        self._commands = 0
        self._waiting: dict[int, tuple[dict[int, dict[str, Any]], asyncio.Future[None]]] = {}
        self._fault: str | None = None
        self._directory = tempfile.TemporaryDirectory(prefix="taper-")
        self._order = asyncio.Lock()
        # A class of its own: SGLang keeps what it starts, and how, at the class.
        self._kind: Any = type("RankProcessEngine", (RankProcessEngine,), {})
        self._counter = 0

    # -- life --------------------------------------------------------------------------

    async def start(self) -> None:
        """Start the rank processes and wait until they serve.

        Raises EngineDied with the rank's own words when one fails, TimeoutError after
        `start_timeout_seconds`.
        """
        plan = SegmentMap.plan(
            self.settings.footprint, self.settings.degrees, self.settings.staging_bytes_per_rank
        )
        self.segment = Segment.create("taper-replica", plan.size_bytes)
        self.records = [RecordReader(self.segment, offset) for offset in plan.records]
        self._control = zmq.asyncio.Context.instance().socket(zmq.PULL)
        self._control_address = f"ipc://{self._directory.name}/control"
        self._control.bind(self._control_address)
        self._listener = asyncio.create_task(self._listen())
        launched: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        # Rank processes die with the thread that made them, so it lives as long as the engine.
        self._closing = threading.Event()
        threading.Thread(
            target=self._launch, args=(asyncio.get_running_loop(), launched), name="taper-engine", daemon=True
        ).start()
        try:
            self._engine = await asyncio.wait_for(launched, self.settings.start_timeout_seconds)
        except BaseException as error:
            await asyncio.sleep(WORDS_SECONDS)
            self._kill_processes()
            await self._kind.close_sockets()
            await self._release_resources()
            if isinstance(error, RuntimeError) and self._fault:
                raise EngineDied(self._fault) from error
            raise
        self._connect()

    def _launch(self, loop: asyncio.AbstractEventLoop, launched: asyncio.Future[Any]) -> None:
        settings = RankSettings(
            footprint=self.settings.footprint,
            degrees=self.settings.degrees,
            engine_arguments=self.settings.arguments(),
            segment=self.segment,
            staging_bytes_per_rank=self.settings.staging_bytes_per_rank,
            control_address=self._control_address,
            facade_pid=os.getpid(),
            replica_seed=self.settings.replica_seed,
            collective_timeout_seconds=self.settings.collective_timeout_seconds,
            oversubscribed=self.settings.device == "cpu" and self.settings.footprint > (os.cpu_count() or 1),
            plugins=self.settings.plugins,
        )
        self._kind.run_scheduler_process_func = staticmethod(functools.partial(run_rank, settings))
        try:
            with environment(self.settings):
                engine = self._kind(**self.settings.arguments(), tp_size=self.settings.footprint)
            # Outputs leave as token ids, but the tokenizer manager refuses stop strings and
            # min_new_tokens where it has no tokenizer.
            engine.tokenizer_manager.tokenizer = get_tokenizer(
                self.settings.model_path, trust_remote_code=self.settings.trust_remote_code
            )
            loop.call_soon_threadsafe(launched.set_result, engine)
        except BaseException as error:
            loop.call_soon_threadsafe(_fail, launched, error)
            return
        self._closing.wait()

    def _connect(self) -> None:
        manager, ports = self._engine.tokenizer_manager, self._engine.port_args
        # A dead rank must not kill this process (`_watch` reports it instead), nor may the
        # engine's own shutdown, which ends every child of this process, others' included.
        manager._subprocess_watchdog.stop()
        atexit.unregister(self._engine.shutdown)
        context: Any = zmq.Context.instance()
        sockets = [manager.send_to_scheduler] + [
            get_zmq_socket(context, zmq.PUSH, input_address(ports.scheduler_input_ipc_name, rank), True)
            for rank in range(1, self.settings.footprint)
        ]
        self._sockets = sockets[1:]
        self._router = Router(self.settings.footprint, self.degree, [bounded(socket) for socket in sockets])
        manager._dispatch_to_scheduler = self._router.dispatch
        manager._async_dispatch_to_scheduler = self._router.dispatch_async
        with contextlib.suppress(FileNotFoundError):
            os.unlink(load_snapshot.shm_path_for(ports.scheduler_input_ipc_name))
        self._watcher = asyncio.create_task(self._watch())

    async def close(self) -> None:
        """Stop the ranks and free everything. Safe to call twice, and after a fault."""
        if not hasattr(self, "_engine"):
            return
        self._watcher.cancel()
        if self._fault is None:
            with contextlib.suppress(Exception):
                # Not in its turn: what is under way may never end.
                await self._command("shutdown", timeout_seconds=5)
        self._kill_processes()
        self._report_fault("the engine was closed")
        self._router.hold()
        await self._kind.close_sockets()
        self._engine.send_to_rpc.context.destroy(linger=0)
        for socket in self._sockets:
            socket.close(linger=0)
        await self._release_resources()
        del self._engine

    def _kill_processes(self) -> None:
        for process in self._kind.processes:
            process.join(timeout=2 if self._fault is None else 0)
            if process.is_alive():
                process.kill()
                process.join(timeout=10)

    async def _release_resources(self) -> None:
        self._closing.set()
        self._listener.cancel()
        self._control.close(linger=0)
        self.segment.close()
        self._directory.cleanup()

    async def _watch(self) -> None:
        """Notice a rank that is gone, within half a second."""
        while self._fault is None:
            for rank, process in enumerate(self._kind.processes):
                if not process.is_alive():
                    # Its own words may still be on their way.
                    await asyncio.sleep(WORDS_SECONDS)
                    self._report_fault(f"rank {rank} ended with exit code {process.exitcode}")
            await asyncio.sleep(0.5)

    def _report_fault(self, text: str) -> None:
        if self._fault is None:
            self._fault = text
        for _, done in self._waiting.values():
            if not done.done():
                done.set_exception(EngineDied(text))
        manager = getattr(getattr(self, "_engine", None), "tokenizer_manager", None)
        for state in list(manager.rid_to_state.values()) if manager else ():
            state.out_list.append({"meta_info": {"finish_reason": {"type": "fault"}}, "output_ids": []})
            state.finished = True
            state.event.set()

    @property
    def fault(self) -> str | None:
        """Why the engine can serve no more, or None."""
        return self._fault

    # -- commands ----------------------------------------------------------------------

    async def command(
        self, name: str, *, timeout_seconds: float = 60.0, **arguments: Any
    ) -> list[dict[str, Any]]:
        """Run a command on every rank, at its loop boundary; results in rank order.

        One at a time: a rank has room for one. Raises CommandFailed with every rank's reason, EngineDied,
        or TimeoutError.
        """
        async with self._order:
            return await self._command(name, timeout_seconds=timeout_seconds, **arguments)

    async def _command(self, name: str, *, timeout_seconds: float, **arguments: Any) -> list[dict[str, Any]]:
        if self._fault:
            raise EngineDied(self._fault)
        self._commands += 1
        order = Command(id=self._commands, name=name, arguments=arguments)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        replies: dict[int, dict[str, Any]] = {}
        self._waiting[order.id] = (replies, done)
        try:
            self._router.broadcast(RpcReqInput(method=COMMAND_METHOD, parameters={"command": order.encode()}))
            await asyncio.wait_for(done, timeout_seconds)
        except TimeoutError:
            missing = sorted(set(range(self.settings.footprint)) - set(replies))
            raise TimeoutError(
                f"command {name}: no answer from ranks {missing} in {timeout_seconds:.0f} s"
            ) from None
        finally:
            del self._waiting[order.id]
        errors = {r["error"] for r in replies.values() if r["error"]}
        if errors:
            raise CommandFailed(f"{name}: {'; '.join(sorted(errors))}")
        return [replies[rank]["result"] for rank in sorted(replies)]

    async def _listen(self) -> None:
        while True:
            reply = json.loads(await self._control.recv())
            if reply["id"] < 0:
                self._report_fault(f"rank {reply['rank']}: {reply['error']}")
                continue
            replies, done = self._waiting.get(reply["id"], ({}, None))
            replies[reply["rank"]] = reply
            if done is not None and len(replies) == self.settings.footprint and not done.done():
                done.set_result(None)

    async def switch(self, degree: int, *, kv: KvMode, epoch: int, deadline_seconds: float) -> dict[str, Any]:
        """Change the layout while requests decode. Returns the switch's figures.

        Those of the slowest rank, but `migrated_requests`, `migrated_tokens` and `recomputed_requests`
        of all groups, and `recomputed_tokens` of the group that has most.

        Raises CommandFailed when the ranks refused or called it off (the old layout serves
        on), EngineDied when that cannot be known.
        """
        async with self._order:
            self._router.hold()
            target: int | None = None
            groups: dict[str, int] = {}
            try:
                results = await self._command(
                    "switch",
                    timeout_seconds=4 * deadline_seconds + 20,
                    epoch=epoch,
                    degree=degree,
                    kv=kv_as_json(kv),
                    deadline_seconds=deadline_seconds,
                )
                target, groups = degree, {r[0]: r[3] for r in results[0]["requests"]}
                self.degree = degree
            except TimeoutError as lost:
                # Some ranks may serve in the new layout and some in the old one.
                self._report_fault(f"switch {epoch}: {lost}")
                raise EngineDied(self._fault) from None
            finally:
                self._router.release(target, groups)
        slowest = max(results, key=lambda result: float(result["blocked_seconds"]))
        groups_of_it = [results[rank] for rank in leaders(self.settings.footprint, degree)]
        state = {
            name: sum(group[name] for group in groups_of_it)
            for name in ("migrated_requests", "migrated_tokens", "recomputed_requests")
        }
        state["recomputed_tokens"] = max(group["recomputed_tokens"] for group in groups_of_it)
        return slowest | state | {"requests": results[0]["requests"]}

    async def resumed(self, *, deadline_seconds: float) -> dict[str, Any]:
        """Pause and re-admission of the last switch, once all its requests decode again."""
        deadline = time.monotonic() + deadline_seconds
        while True:
            results = await self.command("resumed", timeout_seconds=deadline_seconds)
            if all(results) or time.monotonic() > deadline:
                done = [result for result in results if result]
                return {
                    "pause_seconds": max((r["pause_seconds"] for r in done), default=0.0),
                    "prefilled_tokens": sum(
                        results[rank].get("prefilled_tokens", 0)
                        for rank in leaders(self.settings.footprint, self.degree)
                    ),
                }
            await asyncio.sleep(0.01)

    # -- requests ----------------------------------------------------------------------

    def next_number(self) -> int:
        """A number that no request of this engine has had."""
        self._counter += 1
        return self._counter

    async def stream(
        self,
        prompt_ids: list[int],
        sampling: dict[str, Any],
        *,
        request_id: str | None = None,
        number: int | None = None,
        logprobs: bool = False,
        stream: bool = True,
        **extra: Any,
    ) -> AsyncIterator[dict[str, Any]]:
        """SGLang's outputs for one request: dictionaries with `output_ids`, `meta_info`, and our `group`.

        `number` is one of `next_number`; the ranks' records list the request by it.
        """
        if self._fault:
            raise EngineDied(self._fault)
        number = self.next_number() if number is None else number
        rid = name_request(number, request_id or "")
        if self.settings.seeded and sampling.get("sampling_seed") is None:
            sampling = sampling | {"sampling_seed": number}
        outputs = self._engine.tokenizer_manager.generate_request(
            GenerateReqInput(
                input_ids=prompt_ids,
                sampling_params=sampling,
                return_logprob=logprobs,
                stream=stream,
                rid=rid,
                **extra,
            ),
            None,
        )
        try:
            async with contextlib.aclosing(outputs):
                async for output in outputs:
                    reason = output["meta_info"]["finish_reason"]
                    if reason and reason["type"] == "fault":
                        raise EngineDied(self._fault or "the engine ended")
                    output["group"] = self._router.group_of(rid)
                    yield output
        finally:
            self._router.finished(rid)

    async def generate(
        self, prompt_ids: list[int], sampling: dict[str, Any], **options: Any
    ) -> dict[str, Any]:
        """The final output of a request."""
        final: dict[str, Any] = {}
        async for output in self.stream(prompt_ids, sampling, stream=False, **options):
            final = output
        return final

    @contextlib.contextmanager
    def pinned_to_group(self, group: int) -> Iterator[None]:
        """Requests made meanwhile go to this group: for measuring one group alone."""
        self._router.pinned = group
        try:
            yield
        finally:
            self._router.pinned = None

    def abort_all(self) -> None:
        """Ask every group to end its requests; each answers with what it has."""
        self._router.dispatch(AbortReq(rid="", abort_all=True))


def _fail(future: asyncio.Future[Any], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error if isinstance(error, Exception) else RuntimeError(str(error)))

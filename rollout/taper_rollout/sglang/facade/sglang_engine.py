"""SGLang's engine in the facade's process: with Taper's rank processes, and messages that Taper routes.

Its tokenizer manager sends to a router instead of the one socket that SGLang gave it. It is
started in a thread that waits until the engine is closed, as rank processes die with the thread
that started them (`PR_SET_PDEATHSIG`).

SGLang's facade is made to end with its process: it never closes its sockets. What was
sent to ranks that are gone, and a socket that is collected after its context, would
keep this process from ending.

Private names touched, read at SGLang 0.5.23: `Engine._launch_scheduler_processes`,
`_launch_detokenizer_subprocesses`, `init_tokenizer_manager_func`, `send_to_rpc`, `port_args`;
`TokenizerManager._dispatch_to_scheduler`, `_async_dispatch_to_scheduler`, `_subprocess_watchdog`,
`rid_to_state`, `asyncio_tasks`, `send_to_scheduler`; `load_snapshot.shm_path_for`.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import os
import threading
from collections.abc import AsyncGenerator
from typing import Any, ClassVar

import zmq
from sglang.srt.entrypoints import engine
from sglang.srt.entrypoints.engine import Engine
from sglang.srt.managers import load_snapshot
from sglang.srt.managers.io_struct import GenerateReqInput
from sglang.srt.utils.hf_transformers_utils import get_tokenizer
from sglang.srt.utils.network import get_zmq_socket

from taper_rollout.sglang.engine_settings import EngineSettings, environment
from taper_rollout.sglang.facade.router import Router, bounded
from taper_rollout.sglang.rank_process import RankSettings, input_address, run_rank


class RankProcessEngine(Engine):
    """The engine without a detokenizer: outputs are token ids. SGLang keeps what it starts at the class."""

    processes: ClassVar[list[Any]] = []
    manager: ClassVar[Any] = None

    @classmethod
    def _launch_scheduler_processes(
        cls, server_args: Any, port_args: Any, function: Any, **kwargs: Any
    ) -> Any:
        result, processes = super()._launch_scheduler_processes(server_args, port_args, function, **kwargs)
        cls.processes = list(processes)
        return result, processes

    @classmethod
    def _launch_detokenizer_subprocesses(cls, *args: Any, **kwargs: Any) -> Any:
        return [], []

    @classmethod
    def init_tokenizer_manager_func(cls, server_args: Any, port_args: Any, **kwargs: Any) -> Any:
        cls.manager, templates = engine.init_tokenizer_manager(server_args, port_args, **kwargs)
        return cls.manager, templates


class SglangEngine:
    """One engine with its rank processes. `close` also after a failed start."""

    def __init__(self, settings: EngineSettings) -> None:
        self._settings = settings
        self._closing = threading.Event()
        self._kind: Any = type("RankProcessEngine", (RankProcessEngine,), {})
        self._engine: Any = None
        self._sockets: list[Any] = []

    async def start(self, ranks: RankSettings) -> Router:
        """Returns the router of its messages. Raises what keeps it from starting, or TimeoutError."""
        loop = asyncio.get_running_loop()
        launched: asyncio.Future[Any] = loop.create_future()
        threading.Thread(
            target=self._launch, args=(ranks, loop, launched), name="taper-engine", daemon=True
        ).start()
        self._engine = await asyncio.wait_for(launched, self._settings.start_timeout_seconds)
        return self._routed()

    def _launch(
        self, ranks: RankSettings, loop: asyncio.AbstractEventLoop, launched: asyncio.Future[Any]
    ) -> None:
        settings = self._settings
        self._kind.run_scheduler_process_func = staticmethod(functools.partial(run_rank, ranks))
        try:
            with environment(settings):
                engine = self._kind(**settings.arguments(), tp_size=settings.footprint)
            # Outputs leave as token ids, but the tokenizer manager refuses stop strings and
            # min_new_tokens where it has no tokenizer.
            engine.tokenizer_manager.tokenizer = get_tokenizer(
                settings.model_path, trust_remote_code=settings.trust_remote_code
            )
            loop.call_soon_threadsafe(launched.set_result, engine)
        except BaseException as error:
            loop.call_soon_threadsafe(_fail, launched, error)
            return
        self._closing.wait()

    def _routed(self) -> Router:
        """Let the tokenizer manager send through a router."""
        manager = self._kind.manager
        # A dead rank must not kill this process (`ElasticEngine` reports it instead), nor may the
        # engine's own shutdown, which ends every child of this process, others' included.
        manager._subprocess_watchdog.stop()
        atexit.unregister(self._engine.shutdown)
        context: Any = zmq.Context.instance()
        address = self._engine.port_args.scheduler_input_ipc_name
        self._sockets = [
            get_zmq_socket(context, zmq.PUSH, input_address(address, rank), True)
            for rank in range(1, self._settings.footprint)
        ]
        sockets = [bounded(socket) for socket in (manager.send_to_scheduler, *self._sockets)]
        router = Router(self._settings.footprint, self._settings.degrees[0], sockets)
        manager._dispatch_to_scheduler = router.dispatch
        manager._async_dispatch_to_scheduler = router.dispatch_async
        with contextlib.suppress(FileNotFoundError):
            os.unlink(load_snapshot.shm_path_for(address))
        return router

    @property
    def processes(self) -> list[Any]:
        """The ranks' processes, in order."""
        processes: list[Any] = self._kind.processes
        return processes

    def generate(self, request: GenerateReqInput) -> AsyncGenerator[dict[str, Any], None]:
        outputs: AsyncGenerator[dict[str, Any], None] = self._kind.manager.generate_request(request, None)
        return outputs

    def end_requests(self) -> None:
        """End all requests with a finish reason `fault`."""
        if self._engine is None:
            return
        for state in list(self._kind.manager.rid_to_state.values()):
            state.out_list.append({"meta_info": {"finish_reason": {"type": "fault"}}, "output_ids": []})
            state.finished = True
            state.event.set()

    async def close(self, *, wait_seconds: float) -> None:
        """End the rank processes, by force after `wait_seconds`, and close what SGLang leaves open here."""
        for process in self.processes:
            process.join(timeout=wait_seconds)
            if process.is_alive():
                process.kill()
                process.join(timeout=10)
        manager = self._kind.manager
        if manager is not None:
            tasks = list(manager.asyncio_tasks)
            for task in tasks:
                task.cancel()
            # A task that still reads a socket when it is closed would have SGLang end this process.
            if tasks:
                await asyncio.wait(tasks)
            # All of the context's sockets, and it: left to the garbage collector it may wait for ever.
            manager.send_to_scheduler.context.destroy(linger=0)
        if self._engine is not None:
            self._engine.send_to_rpc.context.destroy(linger=0)
        for socket in self._sockets:
            socket.close(linger=0)
        self._closing.set()


def _fail(future: asyncio.Future[Any], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error if isinstance(error, Exception) else RuntimeError(str(error)))

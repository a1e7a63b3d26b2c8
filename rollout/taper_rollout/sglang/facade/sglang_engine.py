"""SGLang's engine with Taper's rank processes, and a way to close what it leaves open.

SGLang's facade is made to end with its process: it never closes its sockets. What was
sent to ranks that are gone, and a socket that is collected after its context, would
keep this process from ending.

Private names touched, read at SGLang 0.5.23: `Engine._launch_scheduler_processes`,
`_launch_detokenizer_subprocesses`, `init_tokenizer_manager_func`; `TokenizerManager
.asyncio_tasks`, `send_to_scheduler`.
"""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

from sglang.srt.entrypoints import engine
from sglang.srt.entrypoints.engine import Engine


class RankProcessEngine(Engine):
    """The engine without a detokenizer: outputs are token ids. Subclass it for each engine to start."""

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

    @classmethod
    async def close_sockets(cls) -> None:
        """Close the tokenizer manager's sockets, also those of an engine whose start failed."""
        if cls.manager is None:
            return
        tasks = list(cls.manager.asyncio_tasks)
        for task in tasks:
            task.cancel()
        # A task that still reads a socket when it is closed would have SGLang end this process.
        if tasks:
            await asyncio.wait(tasks)
        # All of the context's sockets, and it: left to the garbage collector it may wait for them for ever.
        cls.manager.send_to_scheduler.context.destroy(linger=0)
        cls.manager = None

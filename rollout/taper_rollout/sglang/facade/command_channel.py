"""Commands from the facade to every rank of an engine, and the ranks' replies.

Commands travel to group leaders with their requests; replies come back over a socket of
the channel's own. On it a rank also reports a fault before its process ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import zmq
import zmq.asyncio

from taper_rollout.switching.command import Command, Reply


class EngineDied(RuntimeError):
    """A rank's process is gone or has reported a fault that it cannot survive."""


class CommandFailed(RuntimeError):
    """A command was refused or failed; the engine serves on."""


class CommandChannel:
    """The facade's end, on one asyncio loop. `on_fault` is called when the engine can serve no more."""

    def __init__(self, num_ranks: int, on_fault: Callable[[], None]) -> None:
        self._num_ranks, self._on_fault = num_ranks, on_fault
        self._last_id = 0
        self._waiting: dict[int, tuple[dict[int, Reply], asyncio.Future[None]]] = {}
        self.fault: str | None = None

    def open(self, address: str) -> None:
        """Listen for replies at `address`."""
        self._socket = zmq.asyncio.Context.instance().socket(zmq.PULL)
        self._socket.bind(address)
        self._listener = asyncio.create_task(self._listen())

    def close(self) -> None:
        self._listener.cancel()
        self._socket.close(linger=0)

    async def run(
        self, name: str, arguments: dict[str, Any], *, send: Callable[[Command], None], timeout_seconds: float
    ) -> list[Any]:
        """Run a command on every rank; results in rank order. `send` passes it to the group leaders.

        Raises CommandFailed with every rank's reason, EngineDied, or TimeoutError.
        """
        if self.fault:
            raise EngineDied(self.fault)
        self._last_id += 1
        command = Command(id=self._last_id, name=name, arguments=arguments)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        replies: dict[int, Reply] = {}
        self._waiting[command.id] = (replies, done)
        try:
            send(command)
            await asyncio.wait_for(done, timeout_seconds)
        except TimeoutError:
            missing = sorted(set(range(self._num_ranks)) - set(replies))
            raise TimeoutError(
                f"command {name}: no answer from ranks {missing} in {timeout_seconds:.0f} s"
            ) from None
        finally:
            del self._waiting[command.id]
        errors = {reply.error for reply in replies.values() if reply.error}
        if errors:
            raise CommandFailed(f"{name}: {'; '.join(sorted(errors))}")
        return [replies[rank].result for rank in sorted(replies)]

    def report_fault(self, text: str) -> None:
        """The engine can serve no more: every command under way fails. The first fault is kept."""
        if self.fault is None:
            self.fault = text
        for _, done in self._waiting.values():
            if not done.done():
                done.set_exception(EngineDied(text))
        self._on_fault()

    async def _listen(self) -> None:
        while True:
            reply: Reply = await self._socket.recv_pyobj()
            if reply.id < 0:
                self.report_fault(f"rank {reply.rank}: {reply.error}")
                continue
            replies, done = self._waiting.get(reply.id, ({}, None))
            replies[reply.rank] = reply
            if done is not None and len(replies) == self._num_ranks and not done.done():
                done.set_result(None)

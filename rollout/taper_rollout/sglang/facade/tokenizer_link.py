"""Between SGLang's tokenizer manager, which lives in the facade's process, and the ranks.

The manager's messages go through Taper's router instead of the one socket that SGLang
gave it, and its requests can be ended when the ranks are gone.

Private names touched, read at SGLang 0.5.23: `TokenizerManager._dispatch_to_scheduler`,
`_async_dispatch_to_scheduler`, `_subprocess_watchdog`, `rid_to_state`, `send_to_scheduler`;
`Engine.send_to_rpc`, `port_args`; `load_snapshot.shm_path_for`.
"""

from __future__ import annotations

import atexit
import contextlib
import os
from collections.abc import AsyncGenerator
from typing import Any

import zmq
from sglang.srt.managers import load_snapshot
from sglang.srt.managers.io_struct import GenerateReqInput
from sglang.srt.utils.network import get_zmq_socket

from taper_rollout.sglang.facade.router import Router, bounded
from taper_rollout.sglang.rank_process import input_address


class TokenizerLink:
    """Connects a started SGLang engine to a router of its own."""

    def __init__(self, engine: Any, *, footprint: int, degree: int) -> None:
        self._engine, self._manager = engine, engine.tokenizer_manager
        # A dead rank must not kill this process (`ElasticEngine` reports it instead), nor may the
        # engine's own shutdown, which ends every child of this process, others' included.
        self._manager._subprocess_watchdog.stop()
        atexit.unregister(engine.shutdown)
        context: Any = zmq.Context.instance()
        address = engine.port_args.scheduler_input_ipc_name
        self._sockets = [
            get_zmq_socket(context, zmq.PUSH, input_address(address, rank), True)
            for rank in range(1, footprint)
        ]
        sockets = [self._manager.send_to_scheduler, *self._sockets]
        self.router = Router(footprint, degree, [bounded(socket) for socket in sockets])
        self._manager._dispatch_to_scheduler = self.router.dispatch
        self._manager._async_dispatch_to_scheduler = self.router.dispatch_async
        with contextlib.suppress(FileNotFoundError):
            os.unlink(load_snapshot.shm_path_for(address))

    def generate(self, request: GenerateReqInput) -> AsyncGenerator[dict[str, Any], None]:
        """SGLang's outputs for a request."""
        outputs: AsyncGenerator[dict[str, Any], None] = self._manager.generate_request(request, None)
        return outputs

    def end_requests(self) -> None:
        """End all requests with a finish reason `fault`."""
        for state in list(self._manager.rid_to_state.values()):
            state.out_list.append({"meta_info": {"finish_reason": {"type": "fault"}}, "output_ids": []})
            state.finished = True
            state.event.set()

    def close(self) -> None:
        """Close the sockets to the ranks. Call it when the tokenizer manager's own are closed."""
        self._engine.send_to_rpc.context.destroy(linger=0)
        for socket in self._sockets:
            socket.close(linger=0)

"""The agent of one rank: runs the coordinator's commands between two iterations of the active stack.

It lives in the rank's process, on the scheduler's main thread. Commands reach a group's
leader with its requests and are passed on with them, so all ranks of a group meet a
command in the same iteration. A `switch` is `rank_switch`'s; the stacks run the others.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from taper_rollout.switching.command import Reply, SwitchOrder
from taper_rollout.switching.rank_protocol import RankProtocol
from taper_rollout.switching.rank_switch import RankSwitch, SwitchAborted, SwitchingStacks
from taper_rollout.switching.rendezvous import Rendezvous
from taper_rollout.switching.states import SwitchState

log = logging.getLogger("taper.agent")


def run_commands(
    stacks: SwitchingStacks, rendezvous: Rendezvous, protocol: RankProtocol, send: Callable[[Reply], None]
) -> None:
    """Run commands until `shutdown`; `send` delivers replies to the coordinator.

    Raises a fault after which the ranks' layouts may differ.
    """
    while True:
        command = stacks.serve()
        result: Any = None
        error: str | None = None
        try:
            if command.name == "switch":
                order = SwitchOrder(**command.arguments)
                result = RankSwitch(stacks, rendezvous, protocol).run(order)
            elif command.name != "shutdown":
                result = stacks.obey(command)
        except SwitchAborted as aborted:
            error = str(aborted)
        except Exception as fault:
            log.exception("command %s failed", command.name)
            error = f"{type(fault).__name__}: {fault}"
            if protocol.state is SwitchState.ABORTED:
                send(Reply(id=command.id, rank=stacks.rank, result=None, error=error))
                raise
        send(Reply(id=command.id, rank=stacks.rank, result=result, error=error))
        if command.name == "shutdown":
            return

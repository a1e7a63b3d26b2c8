"""The agent of one rank: runs the coordinator's commands between two iterations of the active stack.

It lives in the rank's process, on the scheduler's main thread. Commands reach a group's
leader with its requests and are passed on with them, so all ranks of a group meet a
command in the same iteration. A `switch` is `rank_switch`'s; the stacks run the others.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Protocol

from taper_rollout.switching.command import Command, Reply, SwitchOrder
from taper_rollout.switching.rank_protocol import RankProtocol
from taper_rollout.switching.rank_switch import RankSwitch, SwitchAborted, SwitchingStacks
from taper_rollout.switching.rendezvous import Rendezvous
from taper_rollout.switching.states import SwitchState

log = logging.getLogger("taper.agent")


class SwitchableStacks(SwitchingStacks, Protocol):
    """What the agent needs of the rank's stacks."""

    def serve(self) -> Command: ...

    def obey(self, command: Command) -> dict[str, Any]: ...


class Agent:
    """Serves until a `shutdown` command. `send` delivers replies to the coordinator."""

    def __init__(
        self,
        stacks: SwitchableStacks,
        rendezvous: Rendezvous,
        protocol: RankProtocol,
        send: Callable[[Reply], None],
    ) -> None:
        self._stacks, self._rendezvous, self._protocol, self._send = stacks, rendezvous, protocol, send

    def run(self) -> None:
        """Run commands until `shutdown`. Raises a fault after which the ranks' layouts may differ."""
        while True:
            command = self._stacks.serve()
            if command.name == "shutdown":
                self._reply(command, {})
                return
            try:
                self._reply(command, self._obey(command))
            except SwitchAborted as aborted:
                self._reply(command, {}, str(aborted))
            except Exception as error:
                log.exception("command %s failed", command.name)
                self._reply(command, {}, f"{type(error).__name__}: {error}")
                if self._protocol.state is SwitchState.ABORTED:
                    raise

    def _obey(self, command: Command) -> Any:
        if command.name != "switch":
            return self._stacks.obey(command)
        order = SwitchOrder(**command.arguments)
        return RankSwitch(self._stacks, self._rendezvous, self._protocol).run(order)

    def _reply(self, command: Command, result: Any, error: str | None = None) -> None:
        self._send(Reply(id=command.id, rank=self._stacks.rank, result=result, error=error))

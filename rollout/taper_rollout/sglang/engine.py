"""The facade's end of one live SGLang engine over a footprint of ranks.

SGLang's own `Engine` runs in this process (its tokenizer manager turns requests into
scheduler messages and outputs back into results); its scheduler processes are Taper's
ranks, and between the two sits a router (`facade/sglang_engine.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import os
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

from sglang.srt.managers.io_struct import AbortReq, GenerateReqInput, RpcReqInput

from taper_policy.layout import leaders
from taper_policy.profile.kv_choice import KvMode, kv_as_json
from taper_rollout.sglang.engine_settings import EngineSettings
from taper_rollout.sglang.facade.command_channel import CommandChannel, CommandFailed, EngineDied
from taper_rollout.sglang.facade.router import Router
from taper_rollout.sglang.facade.sglang_engine import SglangEngine
from taper_rollout.sglang.rank_process import RankSettings, SegmentMap
from taper_rollout.shared_memory.rank_record import RecordReader, check_platform, name_request
from taper_rollout.shared_memory.segment import Segment
from taper_rollout.shared_memory.switch_journal import JournalReader, SwitchJournal
from taper_rollout.switching.command import COMMAND_METHOD, Command, SwitchOrder
from taper_rollout.switching.figures import SwitchFigures
from taper_rollout.switching.rank_protocol import replayed
from taper_rollout.switching.rendezvous import GRACE_SECONDS
from taper_rollout.switching.states import SwitchState

__all__ = ["CommandFailed", "ElasticEngine", "EngineDied"]

# How long a rank's own report of its fault may take to arrive after its process has ended.
REPORT_SECONDS = 0.2
POLL_SECONDS = 0.005


class ElasticEngine:
    """A running engine whose layout can change. Use from one asyncio loop; `start` blocks in a thread."""

    def __init__(self, settings: EngineSettings) -> None:
        check_platform()
        self.settings = settings
        self.degree = settings.degrees[0]
        self._sglang = SglangEngine(settings)
        self._channel = CommandChannel(settings.footprint, self._sglang.end_requests)
        self._directory = tempfile.TemporaryDirectory(prefix="taper-")
        self._order = asyncio.Lock()
        self._router: Router
        self._is_running = False
        self._numbers = itertools.count(1)

    # -- life --------------------------------------------------------------------------

    async def start(self) -> None:
        """Start the rank processes and wait until they serve.

        Raises EngineDied with the rank's own report when one fails, TimeoutError after
        `start_timeout_seconds`.
        """
        places = SegmentMap.plan(self.settings)
        self.segment = Segment.create("taper-replica", places.size_bytes)
        self.records = [RecordReader(self.segment, offset) for offset in places.records]
        self._journals = [JournalReader(self.segment, offset) for offset in places.journals]
        control_address = f"ipc://{self._directory.name}/control"
        self._channel.open(control_address)
        ranks = RankSettings(
            engine=self.settings,
            segment=self.segment,
            places=places,
            control_address=control_address,
            facade_pid=os.getpid(),
        )
        try:
            self._router = await self._sglang.start(ranks)
        except BaseException as error:
            await asyncio.sleep(REPORT_SECONDS)
            await self._release(wait_seconds=2 if self.fault is None else 0)
            if isinstance(error, RuntimeError) and self.fault:
                raise EngineDied(self.fault) from error
            raise
        self._is_running = True
        self._watcher = asyncio.create_task(self._watch())

    async def close(self) -> None:
        """Stop the ranks and free everything. Safe to call twice, and after a fault."""
        if not self._is_running:
            return
        self._watcher.cancel()
        if self.fault is None:
            with contextlib.suppress(Exception):
                # Past the queue of commands: the one under way may never end.
                await self._command("shutdown", {}, timeout_seconds=5)
        wait_seconds = 2 if self.fault is None else 0
        self._channel.report_fault("the engine was closed")
        self._router.hold()
        await self._release(wait_seconds)
        self._is_running = False

    async def _release(self, wait_seconds: float) -> None:
        await self._sglang.close(wait_seconds=wait_seconds)
        self._channel.close()
        self.segment.close()
        self._directory.cleanup()

    async def _watch(self) -> None:
        """Report a rank that is gone, within half a second."""
        while self.fault is None:
            for rank, process in enumerate(self._sglang.processes):
                if not process.is_alive():
                    await asyncio.sleep(REPORT_SECONDS)
                    self._channel.report_fault(f"rank {rank} ended with exit code {process.exitcode}")
                    break
            await asyncio.sleep(0.5)

    @property
    def fault(self) -> str | None:
        """Why the engine can serve no more, or None."""
        return self._channel.fault

    # -- commands ----------------------------------------------------------------------

    async def command(self, name: str, *, timeout_seconds: float = 60.0, **arguments: Any) -> list[Any]:
        """Run a command on every rank, at its loop boundary; results in rank order.

        One at a time: a rank has room for one. Raises CommandFailed with every rank's reason, EngineDied,
        or TimeoutError.
        """
        async with self._order:
            return await self._command(name, arguments, timeout_seconds=timeout_seconds)

    async def _command(self, name: str, arguments: dict[str, Any], timeout_seconds: float) -> list[Any]:
        return await self._channel.run(name, arguments, send=self._send, timeout_seconds=timeout_seconds)

    def _send(self, command: Command) -> None:
        self._router.broadcast(RpcReqInput(method=COMMAND_METHOD, parameters={"command": command.encode()}))

    # -- switching ---------------------------------------------------------------------

    async def switch(self, degree: int, *, kv: KvMode, epoch: int, deadline_seconds: float) -> SwitchFigures:
        """Change the layout while requests decode, within `deadline_seconds` from now.

        Returns the figures of the committed switch, but for its pause (`resumed`). Raises
        CommandFailed when the ranks refused or aborted it (the old layout serves on), EngineDied
        when that cannot be known.
        """
        order = SwitchOrder(
            epoch=epoch,
            degree=degree,
            kv=kv_as_json(kv),
            proposed_at=time.monotonic(),
            timeout_seconds=deadline_seconds,
        )
        async with self._order:
            self._router.hold()
            try:
                figures = await self._switched(order)
                self._router.move_to(degree, {one.engine_id: one.new_group for one in figures.requests})
                self.degree = degree
            except TimeoutError as lost:
                # Some ranks may serve in the new layout and some in the old one.
                self._channel.report_fault(f"switch {epoch}: {lost}")
                raise EngineDied(self.fault) from None
            finally:
                self._router.release()
        return figures

    async def _switched(self, order: SwitchOrder) -> SwitchFigures:
        # A rank waits so much longer for the decision of rank 0; recovering takes its time, too.
        timeout_seconds = order.timeout_seconds + 2 * GRACE_SECONDS
        ranks = await self._command("switch", dataclasses.asdict(order), timeout_seconds=timeout_seconds)
        return SwitchFigures.of_replica(ranks, leaders(self.settings.footprint, order.degree))

    def journals(self) -> list[SwitchJournal]:
        """What each rank went through in its last switch."""
        return [reader.read() for reader in self._journals]

    async def resumed(self, figures: SwitchFigures, *, deadline_seconds: float) -> SwitchFigures:
        """The figures with the pause of the last switch, once all its requests decode again.

        Past the deadline, counted from now, without those of the ranks whose requests still wait.
        Raises EngineDied.
        """
        deadline = time.monotonic() + deadline_seconds
        while True:
            journals = self.journals()
            if self.fault:
                raise EngineDied(self.fault)
            is_over = all(replayed(journal).state is SwitchState.SERVING for journal in journals)
            if is_over or time.monotonic() > deadline:
                return figures.with_resumptions(journals, leaders(self.settings.footprint, self.degree))
            await asyncio.sleep(POLL_SECONDS)

    # -- requests ----------------------------------------------------------------------

    def next_number(self) -> int:
        """A number that no request of this engine has had."""
        return next(self._numbers)

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
        if self.fault or not self._is_running:
            raise EngineDied(self.fault or "the engine is not running")
        number = self.next_number() if number is None else number
        rid = name_request(number, request_id or "")
        if self.settings.seeded and sampling.get("sampling_seed") is None:
            sampling = sampling | {"sampling_seed": number}
        outputs = self._sglang.generate(
            GenerateReqInput(
                input_ids=prompt_ids,
                sampling_params=sampling,
                return_logprob=logprobs,
                stream=stream,
                rid=rid,
                **extra,
            )
        )
        try:
            async with contextlib.aclosing(outputs):
                async for output in outputs:
                    reason = output["meta_info"]["finish_reason"]
                    if reason and reason["type"] == "fault":
                        raise EngineDied(self.fault or "the engine ended")
                    output["group"] = self._router.group_of(rid)
                    yield output
        finally:
            self._router.finished(rid)

    async def generate(
        self, prompt_ids: list[int], sampling: dict[str, Any], **options: Any
    ) -> dict[str, Any]:
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

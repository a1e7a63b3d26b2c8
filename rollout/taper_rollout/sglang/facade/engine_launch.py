"""Starts SGLang's engine with Taper's rank processes, in a thread that lives as long as they do.

Rank processes die with the thread that started them (`PR_SET_PDEATHSIG`), so it waits
until the engine is closed.
"""

from __future__ import annotations

import asyncio
import functools
import threading
from typing import Any

from sglang.srt.utils.hf_transformers_utils import get_tokenizer

from taper_rollout.sglang.engine_settings import EngineSettings, environment
from taper_rollout.sglang.facade.rank_process_engine import RankProcessEngine
from taper_rollout.sglang.rank_process import RankSettings, run_rank


class EngineLaunch:
    """One engine's processes. `kind` is a class of its own: SGLang keeps what it starts at the class."""

    def __init__(self, settings: EngineSettings) -> None:
        self._settings = settings
        self._closing = threading.Event()
        self.kind: Any = type("RankProcessEngine", (RankProcessEngine,), {})

    async def start(self, ranks: RankSettings) -> Any:
        """The running engine. Raises what keeps it from starting, or TimeoutError."""
        loop = asyncio.get_running_loop()
        launched: asyncio.Future[Any] = loop.create_future()
        threading.Thread(
            target=self._launch, args=(ranks, loop, launched), name="taper-engine", daemon=True
        ).start()
        return await asyncio.wait_for(launched, self._settings.start_timeout_seconds)

    def _launch(
        self, ranks: RankSettings, loop: asyncio.AbstractEventLoop, launched: asyncio.Future[Any]
    ) -> None:
        settings = self._settings
        self.kind.run_scheduler_process_func = staticmethod(functools.partial(run_rank, ranks))
        try:
            with environment(settings):
                engine = self.kind(**settings.arguments(), tp_size=settings.footprint)
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

    def first_ended(self) -> tuple[int, int | None] | None:
        """Rank and exit code of a process that has ended; None while all live."""
        for rank, process in enumerate(self.kind.processes):
            if not process.is_alive():
                return rank, process.exitcode
        return None

    def kill(self, *, wait_seconds: float) -> None:
        """End the rank processes, by force those that have not ended in `wait_seconds`."""
        for process in self.kind.processes:
            process.join(timeout=wait_seconds)
            if process.is_alive():
                process.kill()
                process.join(timeout=10)

    async def close_sockets(self) -> None:
        """Close what SGLang leaves open in this process."""
        await self.kind.close_sockets()

    def release_thread(self) -> None:
        """Let the thread end. Call it when the processes have ended."""
        self._closing.set()


def _fail(future: asyncio.Future[Any], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error if isinstance(error, Exception) else RuntimeError(str(error)))

"""A fake engine for a coordinator: a test says when requests end and what fails."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import time
from collections.abc import Awaitable, Callable, Coroutine
from types import SimpleNamespace
from typing import Any

from taper_api.job.rollout_spec import Policy, RolloutSpec, SwitchSpec, ThresholdSpec
from taper_policy.profile.estimated import h100_8b
from taper_policy.profile.kv_choice import KvMode
from taper_policy.profile.profile import Profile
from taper_rollout.events import StageRecord
from taper_rollout.replica.coordinator import Coordinator, ReplicaSettings
from taper_rollout.shared_memory.rank_record import LiveRecord, RankRecord
from taper_rollout.shared_memory.switch_journal import SwitchJournal
from taper_rollout.switching.figures import MovedRequest, SwitchFigures
from taper_rollout.switching.rank_protocol import RankProtocol
from taper_rollout.switching.states import SwitchEvent

SETTINGS = ReplicaSettings(
    rollout=RolloutSpec(
        footprint=2,
        policy=Policy(name="threshold", threshold=ThresholdSpec(requests=4)),
        samples_per_prompt=1,
        response_tokens=32,
        switch=SwitchSpec(kv="migrate", timeout_seconds=3.0),
        kv_tokens=100,
        max_running_requests=8,
    ),
    model_path="none",
    dtype="float32",
    context_tokens=64,
    trust_remote_code=False,
    device="cpu",
    replica=0,
    random_seed=1,
    host="127.0.0.1",
    calibrate=False,
)


def changed(settings: ReplicaSettings, **changes: Any) -> ReplicaSettings:
    """Other settings; a name that `ReplicaSettings` does not have is a field of its rollout block."""
    own = {field.name for field in dataclasses.fields(settings)}
    block = settings.rollout.model_dump(by_alias=False)
    block |= {name: value for name, value in changes.items() if name not in own}
    rest = {name: value for name, value in changes.items() if name in own}
    return dataclasses.replace(settings, rollout=RolloutSpec.model_validate(block), **rest)


def two_of_eight() -> Profile:
    """Two ranks of the estimated eight: one with both ranks is faster, and a switch costs next to nothing."""
    whole, degrees = h100_8b(), (1, 2)
    cells = [c for c in whole.cells if c.degree in degrees and c.busy_groups <= 2 // c.degree]
    return dataclasses.replace(
        whole,
        footprint=2,
        degrees=degrees,
        cells=tuple(cells),
        prefill={degree: whole.prefill[degree] for degree in degrees},
        switch={pair: whole.switch[pair] for pair in ((1, 2), (2, 1))},
    )


PROFILE = two_of_eight()


# What a switch that succeeds goes through on every rank, between its proposal and its end.
FORWARD = (SwitchEvent.ALL_AGREED, SwitchEvent.PLAN_MATCHED, SwitchEvent.ALL_DONE)


class FakeEngine:
    """Serves requests until a test ends them, and records commands."""

    fault: str | None = None

    def __init__(self, _: Any) -> None:
        self.degree, self.closed = 1, False
        self.commands: list[tuple[str, dict[str, Any]]] = []
        self.live: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self.sampling: list[dict[str, Any]] = []
        self.switch_fails: Callable[[], Exception | None] = lambda: None
        self.switching: Callable[[], Awaitable[Any]] = lambda: asyncio.sleep(0.01)
        self.resumes = True
        self.epochs: list[int] = []
        self.modes: list[KvMode] = []
        self.changed_figures: dict[str, Any] = {}
        self.events_left: tuple[SwitchEvent, ...] = FORWARD
        self.aborted_by = SwitchEvent.REFUSED
        self._written = [FakeJournal(), FakeJournal()]
        self.ranks: list[Any] = [RankProtocol(journal) for journal in self._written]  # type: ignore[arg-type]
        self.aborts_work = True
        self.records = [
            SimpleNamespace(
                read=functools.partial(self._read, rank),
                new_steps=lambda record: [],
                live=functools.partial(self._listed, rank),
            )
            for rank in range(2)
        ]
        self.numbers: dict[str, int] = {}
        self.decoded: dict[str, int] = {}

    def _read(self, rank: int) -> RankRecord:
        return RankRecord(
            at=0.0,
            degree=self.degree,
            running=len(self._listed(rank)),
            waiting=0,
            listed=0,
            longest_tokens=max((one.decoded_tokens for one in self._listed(rank)), default=0),
            prefilled_tokens_total=0,
            step_seconds=0.0,
            steps_total=0,
        )

    def _listed(self, rank: int) -> list[LiveRecord]:
        """Of two groups the requests are dealt in turn; one group has them all."""
        mine = list(self.live)[rank::2] if self.degree == 1 else list(self.live)
        return [
            LiveRecord(number=self.numbers[name], decoded_tokens=self.decoded.get(name, 1)) for name in mine
        ]

    def next_number(self) -> int:
        return len(self.numbers) + 1

    async def start(self) -> None:
        pass

    async def close(self) -> None:
        self.closed = True

    async def generate(self, prompt: list[int], sampling: dict[str, Any], **options: Any) -> dict[str, Any]:
        name = str(options["request_id"])
        self.sampling.append(sampling)
        self.numbers[name] = options["number"]
        self.live[name] = asyncio.get_running_loop().create_future()
        try:
            return await self.live[name]
        finally:
            del self.live[name]

    def end(self, name: str, reason: str = "stop", tokens: int = 3) -> None:
        meta = {
            "id": f"1-{name}",
            "finish_reason": {"type": reason},
            "output_token_logprobs": [(-0.5, 1, None)] * (tokens + 1),
        }
        self.live[name].set_result({"output_ids": list(range(tokens)), "meta_info": meta})

    def abort_all(self) -> None:
        for name, future in list(self.live.items()):
            if self.aborts_work and not future.done():
                self.end(name, "abort")

    async def command(self, name: str, **arguments: Any) -> list[dict[str, Any]]:
        self.commands.append((name, arguments))
        return [{}, {}]

    def journals(self) -> list[SwitchJournal]:
        return [journal.written for journal in self._written]

    async def switch(self, degree: int, *, kv: KvMode, epoch: int, deadline_seconds: float) -> SwitchFigures:
        """Both ranks go through the protocol; a fault of `switch_fails` aborts it by `aborted_by`."""
        self.epochs.append(epoch)
        self.modes.append(kv)
        for rank in self.ranks:
            rank.propose(epoch, proposed_at=time.monotonic(), timeout_seconds=deadline_seconds)
        await self.switching()
        if error := self.switch_fails():
            for rank in self.ranks:
                rank.apply(self.aborted_by)
                rank.apply(SwitchEvent.RESUMED)
            raise error
        for event in self.events_left:
            for rank in self.ranks:
                rank.apply(event)
        self.degree = degree
        live = tuple(MovedRequest(f"1-{name}", 0, 5, 0) for name in self.live)
        figures = SwitchFigures(
            live_requests=len(live),
            live_tokens=5 * len(live),
            migrated_requests=len(live),
            migrated_tokens=5 * len(live),
            recomputed_requests=0,
            recomputed_tokens=0,
            moved_bytes=0,
            commit_seconds=0.0,
            blocked_seconds=0.0,
            parts_seconds={},
            requests=live,
        )
        return dataclasses.replace(figures, **self.changed_figures)

    async def resumed(self, figures: SwitchFigures, *, deadline_seconds: float) -> SwitchFigures:
        if not self.resumes:
            await asyncio.sleep(deadline_seconds)
            return figures
        for rank in self.ranks:
            rank.resume(paused_at=time.monotonic(), prefilled_tokens=1)
        return dataclasses.replace(
            figures, pause_seconds=0.02, prefilled_tokens=int(figures.live_requests > 0)
        )


class FakeJournal:
    """Keeps what a rank writes to its journal."""

    def __init__(self) -> None:
        self.written = SwitchJournal()

    def write(self, journal: SwitchJournal) -> None:
        self.written = journal


Scenario = Callable[[Coordinator, FakeEngine, list[Any]], Coroutine[Any, Any, None]]
Play = Callable[..., None]


def ask(coordinator: Coordinator, name: str, **sampling: Any) -> asyncio.Task[Any]:
    return asyncio.create_task(
        coordinator.generate(request_id=name, prompt_ids=[1, 2], sampling=sampling, logprobs=True)
    )


async def until(condition: Callable[[], Any]) -> None:
    while not condition():
        await asyncio.sleep(0.005)


def records(emitted: list[Any]) -> list[StageRecord]:
    return [event for event in emitted if isinstance(event, StageRecord)]

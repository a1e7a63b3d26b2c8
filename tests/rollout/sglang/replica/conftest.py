from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Iterator
from typing import Any

import pytest

from taper_api.job.rollout_spec import Policy, RolloutSpec, Sampling, SwitchSpec, ThresholdSpec
from taper_policy.decision.ledger import LedgerRecord, entry_from_json
from taper_policy.profile.profile import Profile
from taper_rollout.events import LedgerEntry, StageRecord
from taper_rollout.replica.coordinator import Coordinator, Generated, ReplicaSettings
from taper_rollout.replica.decider import Decider
from taper_rollout.replica.stage_review import StageReviewer

from ...fake_engine import changed
from ..conftest import MakeModel

Request = dict[str, Any]
StageResult = tuple[list[Generated], StageRecord]
GREEDY: dict[str, Any] = {"temperature": 0.0, "ignore_eos": True}
RANDOM: dict[str, Any] = {"temperature": 1.0, "ignore_eos": True}
WAIT_SECONDS = 120.0


class Replica:
    """A coordinator on the tests' loop, the events that it emitted, and settings that a test may choose."""

    def __init__(self, loop: asyncio.AbstractEventLoop, settings: ReplicaSettings) -> None:
        self.loop, self.base, self.events = loop, settings, list[Any]()
        self.coordinator = Coordinator(settings, self.events.append)
        self.run(self.coordinator.start())
        self.profile = self.coordinator.profile
        self.step = 0

    def run(self, work: Awaitable[Any], seconds: float = WAIT_SECONDS) -> Any:
        return self.loop.run_until_complete(asyncio.wait_for(work, seconds))

    def configure(self, profile: Profile | None = None, **changes: Any) -> None:
        """Change settings of the running replica: what it was started with, and `changes`.

        It decides by `profile`, or by the one that it measured when it started.
        """
        settings = changed(self.base, **changes)
        coordinator = self.coordinator
        coordinator._settings = coordinator._switcher._settings = coordinator._stages._settings = settings
        self.coordinator.decisions = Decider(settings, self.events.append)
        self.coordinator._stages._reviewer = StageReviewer(settings)
        self.coordinator.use(profile or self.profile)

    def ledger(self) -> list[LedgerRecord]:
        """Its entries for the ledger, since the events were cleared."""
        entries = [event.entry for event in self.events if isinstance(event, LedgerEntry)]
        return [entry_from_json(json.loads(json.dumps(entry))) for entry in entries]

    async def generate(self, requests: list[Request], *, logprobs: bool = True) -> list[Generated]:
        """Serve requests, each a dictionary with `prompt` and sampling parameters."""
        started = []
        for index, request in enumerate(requests):
            sampling = {name: value for name, value in request.items() if name != "prompt"}
            started.append(
                self.coordinator.generate(
                    request_id=f"request-{index}",
                    prompt_ids=request["prompt"],
                    sampling=sampling,
                    logprobs=logprobs,
                )
            )
        return list(await asyncio.gather(*started))

    def stage(self, requests: list[Request], *, step: int | None = None) -> StageResult:
        """One stage: the responses, and the record that the stage left."""
        self.step = self.step + 1 if step is None else step

        async def scenario() -> list[Generated]:
            await self.coordinator.set_global_steps(self.step)
            self.events.clear()
            responses = await self.generate(requests)
            await self.coordinator.set_global_steps(-1)
            return responses

        self.run(self.coordinator.set_global_steps(-1))
        responses = self.run(scenario())
        [record] = [event for event in self.events if isinstance(event, StageRecord)]
        return responses, record

    async def at_degree(self, degree: int) -> None:
        while self.coordinator._engine.degree != degree:
            await asyncio.sleep(0.01)

    async def quiet(self) -> None:
        """Return when no rank's record has a running request: it is written after the last output."""
        while any(reader.read().running for reader in self.coordinator._engine.records):
            await asyncio.sleep(0.002)

    async def decoding(self, tokens: int) -> None:
        """Return when the longest live response has so many tokens."""
        while max(r.read().longest_tokens for r in self.coordinator._engine.records) < tokens:
            await asyncio.sleep(0.002)


@pytest.fixture(scope="package")
def llama(loop: asyncio.AbstractEventLoop, model: MakeModel, rank_plugins: str) -> Iterator[Replica]:
    """Two ranks of Llama that widen when two requests are left."""
    replica = Replica(
        loop,
        ReplicaSettings(
            rollout=RolloutSpec(
                footprint=2,
                policy=Policy(name="threshold", threshold=ThresholdSpec(requests=2)),
                samples_per_prompt=1,
                response_tokens=512,
                sampling=Sampling(seed=7),
                switch=SwitchSpec(kv="migrate", timeout_seconds=20.0),
                kv_tokens=32768,
                max_running_requests=64,
            ),
            model_path=str(model("llama", 1)),
            dtype="float32",
            context_tokens=1024,
            trust_remote_code=False,
            device="cpu",
            replica=3,
            random_seed=1,
            host="127.0.0.1",
        ),
    )
    yield replica
    replica.run(replica.coordinator.close())


@pytest.fixture
def replica(llama: Replica) -> Iterator[Replica]:
    """The shared replica as it was started, drained and in its base layout."""
    llama.configure()
    llama.events.clear()
    yield llama
    llama.run(llama.coordinator.resume_generation())
    llama.run(llama.coordinator.wake_up())
    llama.run(llama.at_degree(1))


def long_tail(sampling: dict[str, Any]) -> list[Request]:
    """Eight short responses and two long ones; prompts 0 to 4, two samples of each."""
    lengths = [10, 12, 14, 16, 18, 20, 22, 24, 220, 260]
    return [
        sampling | {"prompt": [5 + index // 2, 6, 7, 8], "max_new_tokens": length}
        for index, length in enumerate(lengths)
    ]

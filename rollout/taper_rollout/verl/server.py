"""The Ray actor that VeRL knows as one rollout server: the facade of one footprint (VeRL 0.9.1).

It speaks VeRL's server contract and hands everything to the coordinator, which hides
layouts and switches. What the coordinator tells goes to the run's reporter and to the node's
metrics host; the first failure goes to the reporter: VeRL turns a failed request into a missing
sample and trains on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from pathlib import Path
from typing import Any

import ray
from verl.workers.rollout.replica import TokenOutput

from taper_rollout.replica.events import as_json
from taper_rollout.verl.metrics.host import post_to
from taper_rollout.verl.profile_trace import ProfileTrace
from taper_rollout.verl.settings import engine_sampling

POST_SECONDS = 5.0

_logger = logging.getLogger(__name__)


class ReplicaServer:
    """One per footprint. Methods are VeRL's, plus the few that our trainer-side adapter asks."""

    def __init__(
        self,
        settings: dict[str, Any],
        *,
        response_length: int,
        free_cache_engine: bool,
        run: str | None,
        metrics_host: Any,
        profiles: str,
    ) -> None:
        # Imported here: the trainer's process knows this class too, and must not import the engine.
        from taper_rollout.replica.coordinator import Coordinator, ReplicaSettings

        self._settings = ReplicaSettings(**settings)
        self._response_length = response_length
        self._free_cache_engine = free_cache_engine
        self._reporter = ray.get_actor(run) if run is not None else None
        self._metrics_host = metrics_host
        self._profiles = Path(profiles)
        self._profile: ProfileTrace | None = None
        self._step: int | None = None
        self._channel = uuid.uuid4().hex
        self._last_posts: dict[str, Any] = {}
        self._coordinator = Coordinator(self._settings, self._emit)

    def _emit(self, event: Any) -> None:
        told = event if isinstance(event, dict) else as_json(event)
        if self._reporter is not None:
            self._last_posts["run"] = self._reporter.post.remote(told)
        posted = post_to(self._metrics_host, told)
        if posted is not None:
            self._last_posts["metrics"] = posted

    def _report_failure(self, error: Exception) -> None:
        _logger.exception("replica %d", self._settings.replica)
        if self._reporter is not None:
            message = f"replica {self._settings.replica}: {type(error).__name__}: {error}"
            self._reporter.post.remote({"kind": "Failure", "message": message})

    async def launch(self) -> None:
        """Start the engine and its ranks. Raises what keeps them from starting."""
        await self._coordinator.start()

    async def close(self) -> None:
        """End the engine and its ranks; nothing of them is left afterwards."""
        await self._coordinator.close()
        posts = asyncio.gather(*self._last_posts.values(), return_exceptions=True)
        with contextlib.suppress(TimeoutError):  # who should hear it may be gone, too
            await asyncio.wait_for(posts, POST_SECONDS)

    async def get_server_address(self) -> tuple[str, int]:
        """Host and port of the replica's status server."""
        return self._coordinator.address()

    async def get_weight_channel(self) -> str:
        """A name that no other replica on this machine has, for the sockets of weight transfers."""
        return self._channel

    async def generate(
        self,
        request_id: str,
        prompt_ids: list[int],
        sampling_params: dict[str, Any],
        image_data: Any = None,
        video_data: Any = None,
        audio_data: Any = None,
        mm_processor_kwargs: Any = None,
        priority: int = 0,
    ) -> TokenOutput:
        """The response's token ids, their log-probs if asked for, and why it ended.

        Raises `ValueError` for images, video and audio. `priority` is taken and not used.
        """
        if image_data or video_data or audio_data:
            raise ValueError("images, video and audio are not supported; use text prompts")
        sampling, logprobs = engine_sampling(
            sampling_params,
            prompt_tokens=len(prompt_ids),
            response_length=self._response_length,
            context_tokens=self._settings.context_tokens,
        )
        started_at = time.time()
        try:
            made = await self._coordinator.generate(
                request_id=request_id, prompt_ids=list(prompt_ids), sampling=sampling, logprobs=logprobs
            )
        except Exception as error:
            self._report_failure(error)
            raise
        if self._profile is not None:
            self._profile.add(request_id, started_at, time.time(), tokens=len(made.token_ids))
        return TokenOutput(
            token_ids=made.token_ids,
            log_probs=made.log_probs,
            stop_reason=made.stop_reason,
            num_preempted=made.num_preempted,
            extra_fields={"global_steps": self._step},
        )

    async def sleep(self) -> None:
        """Give weights and KV memory away, unless VeRL was told to keep them (`free_cache_engine`)."""
        if self._free_cache_engine:
            await self._coordinator.sleep()

    async def wake_up(self) -> None:
        """Take both back."""
        if self._free_cache_engine:
            await self._coordinator.wake_up()

    async def resume(self, tags: list[str]) -> None:
        """Take back "weights" or "kv_cache" alone."""
        if self._free_cache_engine:
            await self._coordinator.wake_up(tuple(tags))

    async def release_kv_cache(self) -> None:
        """Give the KV memory away; weights stay."""
        if self._free_cache_engine:
            await self._coordinator.sleep(("kv_cache",))

    async def resume_kv_cache(self) -> None:
        """Take the KV memory back."""
        if self._free_cache_engine:
            await self._coordinator.wake_up(("kv_cache",))

    async def clear_kv_cache(self) -> None:
        """Forget all cached prefixes, in all stacks."""
        await self._coordinator.clear_kv_cache()

    async def abort_all_requests(self, reject_request: bool = False) -> None:
        """End live requests with what they have and hold new ones back, or refuse them."""
        await self._coordinator.abort_all(reject=reject_request)

    async def resume_generation(self) -> None:
        """Serve again after `abort_all_requests`."""
        await self._coordinator.resume_generation()

    async def update_weights(
        self, source: str, arguments: list[dict[str, Any]], version: int | None = None
    ) -> None:
        """Load new weights in every rank from what `source` yields there; `version` is VeRL's step."""
        await self._coordinator.update_weights(source=source, arguments=arguments, version=version)
        if version is not None:
            await self.set_global_steps(version)

    async def set_global_steps(self, global_steps: int) -> None:
        """The step that made the weights; each response says it. The next stage is the next step's."""
        self._step = global_steps
        await self._coordinator.set_global_steps(global_steps + 1)

    async def set_stage(self, step: int) -> None:
        """What is generated from now on belongs to `step`; a stage of another step ends."""
        await self._coordinator.set_global_steps(step)

    async def start_profile(self, **_settings: Any) -> None:
        """Record each request's span from now on."""
        self._profile = ProfileTrace()

    async def stop_profile(self) -> None:
        """Write the spans as a trace file (Chrome's trace event format) and stop recording."""
        profile, self._profile = self._profile, None
        if profile is not None:
            name = f"replica{self._settings.replica}_step{self._step or 0}.trace.json"
            profile.write(self._profiles / name)

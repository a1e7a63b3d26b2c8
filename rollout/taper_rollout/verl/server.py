"""The Ray actor that VeRL uses as a rollout server: the facade of one footprint (VeRL 0.9.1).

Implements VeRL's server interface with the coordinator, which hides layouts and switches. Events of the
coordinator are posted to the run's reporter and to the node's metrics host. Failures of requests are
posted to the reporter too, because VeRL treats a failed request as a missing sample and continues.
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

from taper_rollout.events import Event, Failure
from taper_rollout.profiling.replica_settings import ReplicaSettings
from taper_rollout.verl.metrics.host import post_to
from taper_rollout.verl.profile_trace import ProfileTrace
from taper_rollout.verl.settings import engine_sampling

POST_SECONDS = 5.0

_logger = logging.getLogger(__name__)


class ReplicaServer:
    """One per footprint. The methods are VeRL's, and a few more for the adapter in the trainer's ranks."""

    def __init__(
        self,
        settings: ReplicaSettings,
        *,
        response_length: int,
        free_cache_engine: bool,
        run: str | None,
        metrics_host: Any,
        profiles: str,
    ) -> None:
        # Imported here, because the trainer's process imports this class and must not import the engine.
        from taper_rollout.replica.coordinator import Coordinator

        self._settings = settings
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

    def _emit(self, event: Event) -> None:
        if self._reporter is not None:
            self._last_posts["run"] = self._reporter.post.remote(event)
        posted = post_to(self._metrics_host, event)
        if posted is not None:
            self._last_posts["metrics"] = posted

    def _report_failure(self, error: Exception) -> None:
        _logger.exception("replica %d", self._settings.replica)
        if self._reporter is not None:
            message = f"replica {self._settings.replica}: {type(error).__name__}: {error}"
            self._reporter.post.remote(Failure(message=message))

    async def launch(self) -> None:
        await self._coordinator.start()

    async def close(self) -> None:
        """Stop the engine and its ranks, and wait for the last posts."""
        await self._coordinator.close()
        posts = asyncio.gather(*self._last_posts.values(), return_exceptions=True)
        with contextlib.suppress(TimeoutError):  # the receivers may be gone, too
            await asyncio.wait_for(posts, POST_SECONDS)

    async def get_server_address(self) -> tuple[str, int]:
        return self._coordinator.address()

    async def get_weight_channel(self) -> str:
        """A name, unique on this machine, for the sockets of weight transfers."""
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
        """Generate a response: its token ids, their log-probs if requested, and why it ended.

        Raises `ValueError` for images, video and audio. `priority` is ignored.
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
            response = await self._coordinator.generate(
                request_id=request_id, prompt_ids=list(prompt_ids), sampling=sampling, logprobs=logprobs
            )
        except Exception as error:
            self._report_failure(error)
            raise
        if self._profile is not None:
            self._profile.add(request_id, started_at, time.time(), tokens=len(response.token_ids))
        return TokenOutput(
            token_ids=response.token_ids,
            log_probs=response.log_probs,
            stop_reason=response.stop_reason,
            num_preempted=response.num_preempted,
            extra_fields={"global_steps": self._step},
        )

    async def sleep(self) -> None:
        """Release the memory of weights and KV caches, unless `free_cache_engine` is off."""
        if self._free_cache_engine:
            await self._coordinator.sleep()

    async def wake_up(self) -> None:
        if self._free_cache_engine:
            await self._coordinator.wake_up()

    async def resume(self, tags: list[str]) -> None:
        """Allocate "weights" or "kv_cache" again."""
        if self._free_cache_engine:
            await self._coordinator.wake_up(tuple(tags))

    async def release_kv_cache(self) -> None:
        if self._free_cache_engine:
            await self._coordinator.sleep(("kv_cache",))

    async def resume_kv_cache(self) -> None:
        if self._free_cache_engine:
            await self._coordinator.wake_up(("kv_cache",))

    async def clear_kv_cache(self) -> None:
        await self._coordinator.clear_kv_cache()

    async def abort_all_requests(self, reject_request: bool = False) -> None:
        """End running requests with the tokens they have, and hold back or reject new ones."""
        await self._coordinator.abort_all(reject=reject_request)

    async def resume_generation(self) -> None:
        await self._coordinator.resume_generation()

    async def update_weights(
        self, source: str, arguments: list[dict[str, Any]], version: int | None = None
    ) -> None:
        """Load the weights that `source` yields in each rank. `version`: VeRL's step."""
        await self._coordinator.update_weights(source=source, arguments=arguments)
        if version is not None:
            await self.set_global_steps(version)

    async def set_global_steps(self, global_steps: int) -> None:
        """Set the step of the weights, a field of each response. The next stage belongs to the next step."""
        self._step = global_steps
        await self._coordinator.set_global_steps(global_steps + 1)

    async def set_stage(self, step: int) -> None:
        """Assign further requests to `step`. Ends a stage of another step."""
        await self._coordinator.set_global_steps(step)

    async def start_profile(self, **_settings: Any) -> None:
        self._profile = ProfileTrace()

    async def stop_profile(self) -> None:
        """Stop recording, and write the spans as a trace file (Chrome's trace event format)."""
        profile, self._profile = self._profile, None
        if profile is not None:
            name = f"replica{self._settings.replica}_step{self._step or 0}.trace.json"
            profile.write(self._profiles / name)

"""Handing live requests from one stack to another, with everything that makes them what they are.

A request is SGLang's own `Req`: token ids, sampling parameters and seed, log-probs so
far, stop conditions, stream position. It travels as a pickled clone without what belongs
to a place: KV slots, prefix-cache nodes, tokenizer, timers. A rank that is in both the old
and the new group keeps its own object.

Log-probs: stock SGLang (0.5.23) starts them at the end of the prompt, which caps the
prefix-cache hit of a re-admitted request there and prefills its whole response with
logits (`schedule_batch.py:1774`). The log-probs that exist travel along, so the start
moves to the end and one token is prefilled.
"""

from __future__ import annotations

import copy
import hashlib
import pickle
from array import array
from typing import Any

import torch
from sglang.srt.managers.io_struct import ContinueGenerationReqInput, PauseGenerationReqInput
from sglang.srt.managers.schedule_batch import Req, ReqKvInfo
from sglang.srt.mem_cache.base_prefix_cache import InsertParams
from sglang.srt.mem_cache.radix_cache import RadixKey
from sglang.srt.observability.req_time_stats import SchedulerReqTimeStats

_PLACE_BOUND = (
    "tokenizer",
    "metrics_collector",
    "time_stats",
    "last_node",
    "last_host_node",
    "best_match_node",
)


def live_requests(scheduler: Any) -> list[Req]:
    """All unfinished requests of a stack in a canonical order: running first, then waiting."""
    running = list(scheduler.running_batch.reqs)
    last = scheduler.last_batch
    if last is not None and last.forward_mode.is_extend() and last is not scheduler.running_batch:
        running += last.reqs
    if scheduler.chunked_req is not None:
        running.append(scheduler.chunked_req)
    unique = {request.rid: request for request in [*running, *scheduler.waiting_queue]}
    return [request for request in unique.values() if not request.finished()]


def kv_tokens(request: Req) -> int:
    """KV tokens of a request that are worth moving: those of requests that have output."""
    return int(request.kv.kv_committed_len) if request.kv.holds_kv and len(request.output_ids) else 0


def prompt_name(request: Req) -> str:
    """Equal for requests whose prompts have equal KV."""
    ids = array("q", request.origin_input_ids).tobytes()
    return hashlib.blake2b(ids + (request.extra_key or "").encode(), digest_size=8).hexdigest()


def kv_slots(scheduler: Any, request: Req) -> torch.Tensor:
    """The arena slots of a request's KV tokens, in order."""
    row = scheduler.req_to_token_pool.req_to_token[request.kv.req_pool_idx]
    return row[: kv_tokens(request)].to(torch.int64)


def pack(requests: list[Req]) -> bytes:
    """Clones of requests as bytes, for processes of this replica."""
    clones = []
    for request in requests:
        clone = copy.copy(request)
        clone.kv = ReqKvInfo()
        for name in _PLACE_BOUND:
            setattr(clone, name, None)
        clone.reset_for_retract()
        clones.append(clone)
    return pickle.dumps(clones, protocol=5)


def unpack(packed: bytes) -> list[Req]:
    """The requests of `pack`; `adopt` gives them a home."""
    requests: list[Req] = pickle.loads(packed)
    return requests


def drain(scheduler: Any) -> list[Req]:
    """Take every unfinished request out of a stack and free all its slots and cached prefixes.

    Raises RuntimeError where SGLang refuses to flush: stale prefixes must not survive. The
    requests are then in the stack's waiting queue.
    """
    before = {request.rid: request.retraction_count for request in live_requests(scheduler)}
    scheduler.pause_generation(PauseGenerationReqInput(mode="retract"))
    requests, scheduler.waiting_queue = scheduler.waiting_queue, []
    flushed = scheduler.flush_cache(empty_cache=False)
    scheduler.continue_generation(ContinueGenerationReqInput(torch_empty_cache=False))
    if not flushed:
        for request in requests:
            admit(scheduler, request)
        raise RuntimeError("SGLang refused to flush the prefix cache of a drained stack")
    for request in requests:
        request.retraction_count = before.get(request.rid, request.retraction_count)
    return list(requests)


def flush(scheduler: Any) -> None:
    """Drop a stack's prefix cache; live requests keep their tokens and are prefilled again.

    A plain `flush_cache` returns False without a word just after the last output, when the
    finished requests still sit in the running batch. A paused one does not.
    """
    for request in drain(scheduler):
        admit(scheduler, request)


def admit(scheduler: Any, request: Req) -> None:
    """Put a request into a stack's waiting queue."""
    request.tokenizer = scheduler.tokenizer
    if request.time_stats is None:
        request.time_stats = SchedulerReqTimeStats.new_from_obj(None)
    has_begun = len(request.output_ids) and request.logprob.input_token_logprobs_val is not None
    if request.return_logprob and has_begun:
        # Log-probs go on after the tokens that have theirs.
        request.logprob_start_len = len(request.origin_input_ids) + len(request.output_ids)
    scheduler._add_request_to_queue(request)


def allocate(scheduler: Any, num_tokens: int) -> torch.Tensor | None:
    """Slots for a request's KV in a stack, or None where it does not fit."""
    slots = scheduler.token_to_kv_pool_allocator.alloc(num_tokens)
    return None if slots is None else slots.to(torch.int64)


def remember(scheduler: Any, request: Req, slots: torch.Tensor) -> None:
    """Enter KV into a stack's prefix cache, so that the request's admission finds it there.

    Where a sibling already brought the same prefix, the cache keeps that and frees ours.
    """
    ids = [*request.origin_input_ids, *request.output_ids][: len(slots)]
    key = RadixKey(array("q", ids), request.extra_key)
    scheduler.tree_cache.insert(InsertParams(key=key, value=slots))

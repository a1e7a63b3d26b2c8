"""Profiles of GPUs derived from published figures, for simulations without a GPU.

None of it was measured here: `is_estimated` is set, and every surface that shows such a
profile shows that. A decode step of a group of d ranks, with b requests of c tokens, takes

    max(W / (d B), 2 P b / (d F)) + b c K / (d B)         roofline: weights or arithmetic, then KV
    + L * 2 * (A + busy * b H 2 * 2 (d - 1) / d / N)      two all-reduces a layer, for d > 1
    + b S                                                 what no rank shares: scheduling, sampling

P parameters, W = 2 P bytes of weights, K KV bytes a token, L layers, H hidden size, B memory
bandwidth, F bf16 arithmetic, N link bandwidth, A latency of a small all-reduce, S seconds a
sequence. The busy groups share the link only where it is PCIe.

Sources.
- H100 SXM (NVIDIA's data sheet): 80 GB, B = 3.35 TB/s, F = 989 TFLOP/s dense. A40 (data
  sheet): 48 GB, B = 696 GB/s, F = 149.7 TFLOP/s dense.
- N: NVLink 300 GB/s effective, PCIe 4.0 x16 12 GB/s effective. With the switch below they give
  11 ms and 0.27 s for 16 requests of 16K tokens of the 8B model from TP 2 to TP 8.
- 8B: Llama 3.1 8B, P = 8.03e9, L = 32, H = 4096, 8 KV heads of 128: K = 128 KiB.
  14B: Qwen3 14B, P = 14.8e9, L = 40, H = 5120, 8 KV heads of 128: K = 160 KiB. Model cards.
- S: 15 to 40 us, from the roofline study of this method's gains; the middle, 27.5 us.
- Recomputing 16 x 16K tokens of the 8B model takes 1.3 s on 8 H100 and 8.8 s on 8 A40 (PAT,
  arXiv 2605.23945), which gives the prefill rate; scaled by P for 14B, by 8 / d for a group of d.
- Migration under load has been measured 3 times slower than idle: so it is here.
- Assumed, without a source: A = 10 us on NVLink and 40 us on PCIe; 50 ms and 1 ms a request
  fixed for a switch, whether KV is migrated or recomputed; 10 ms for a prefill; half widths of 25 % of
  a step, 50 % of the rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from taper_policy.layout import uniform_degrees
from taper_policy.profile.profile import PrefillTerms, Profile, ProfileKey, SwitchTerms
from taper_policy.profile.step_surface import StepCell

FOOTPRINT: Final = 8
BATCHES: Final = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
CONTEXTS: Final = (256, 1024, 2048, 4096, 8192, 16384, 24576, 32768)
SEQUENCE_SECONDS: Final = 27.5e-6
UNDER_LOAD: Final = 3.0
STEP_UNCERTAINTY: Final = 0.25
OTHER_UNCERTAINTY: Final = 0.5
# What is left of the memory besides weights and KV: graphs, workspaces, the framework.
RESERVED_SHARE: Final = 0.15
MADE_AT: Final = "2026-11-21T00:00:00+00:00"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Model:
    name: str
    num_parameters: float
    num_layers: int
    hidden_size: int
    kv_bytes_per_token: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Card:
    """`prefill_8b_token_seconds`: of the 8B model, over all ranks of the footprint together."""

    name: str
    memory_bytes: float
    bytes_per_second: float
    flops_per_second: float
    link_bytes_per_second: float
    all_reduce_seconds: float
    shares_link: bool
    prefill_8b_token_seconds: float


_LLAMA_8B: Final = _Model(
    name="meta-llama/Llama-3.1-8B",
    num_parameters=8.03e9,
    num_layers=32,
    hidden_size=4096,
    kv_bytes_per_token=128 * 1024,
)
_QWEN_14B: Final = _Model(
    name="Qwen/Qwen3-14B",
    num_parameters=14.8e9,
    num_layers=40,
    hidden_size=5120,
    kv_bytes_per_token=160 * 1024,
)
_H100: Final = _Card(
    name="NVIDIA H100 80GB HBM3",
    memory_bytes=80e9,
    bytes_per_second=3.35e12,
    flops_per_second=989e12,
    link_bytes_per_second=300e9,
    all_reduce_seconds=10e-6,
    shares_link=False,
    prefill_8b_token_seconds=1.3 / (16 * 16384),
)
_A40: Final = _Card(
    name="NVIDIA A40",
    memory_bytes=48e9,
    bytes_per_second=696e9,
    flops_per_second=149.7e12,
    link_bytes_per_second=12e9,
    all_reduce_seconds=40e-6,
    shares_link=True,
    prefill_8b_token_seconds=8.8 / (16 * 16384),
)


def h100_8b() -> Profile:
    """Llama 3.1 8B on 8 x H100 with NVLink, bf16; estimated."""
    return _profile(_LLAMA_8B, _H100)


def a40_14b() -> Profile:
    """Qwen3 14B on 8 x A40 with PCIe, bf16; estimated."""
    return _profile(_QWEN_14B, _A40)


def _profile(model: _Model, card: _Card) -> Profile:
    degrees = uniform_degrees(FOOTPRINT)
    token_seconds = card.prefill_8b_token_seconds * model.num_parameters / _LLAMA_8B.num_parameters
    return Profile(
        key=ProfileKey(model=model.name, device=card.name, dtype="bfloat16", versions={}),
        footprint=FOOTPRINT,
        degrees=degrees,
        kv_bytes_per_token=model.kv_bytes_per_token,
        cells=tuple(cell for degree in degrees for cell in _cells(model, card, degree)),
        prefill={
            degree: PrefillTerms(
                fixed_seconds=0.01,
                token_seconds=token_seconds * FOOTPRINT / degree,
                relative_error_p90=OTHER_UNCERTAINTY,
            )
            for degree in degrees
        },
        switch={
            (one, two): _switch(card, one, two, token_seconds * FOOTPRINT / two)
            for one in degrees
            for two in degrees
            if one != two
        },
        held_out_error=None,
        made_at=MADE_AT,
        is_estimated=True,
    )


def _cells(model: _Model, card: _Card, degree: int) -> Iterator[StepCell]:
    """The grid as far as the KV of a group fits its memory."""
    usable_bytes = card.memory_bytes * (1 - RESERVED_SHARE) * degree - 2 * model.num_parameters
    num_groups = FOOTPRINT // degree
    for busy_groups in sorted({1, num_groups}):
        for batch in BATCHES:
            for context in CONTEXTS:
                if batch * context * model.kv_bytes_per_token > usable_bytes:
                    continue
                seconds = _step_seconds(model, card, degree, batch, context, busy_groups)
                yield StepCell(
                    degree=degree,
                    batch=batch,
                    context_tokens=context,
                    busy_groups=busy_groups,
                    seconds=seconds,
                    half_width_seconds=STEP_UNCERTAINTY * seconds,
                    num_samples=0,
                )


def _step_seconds(
    model: _Model, card: _Card, degree: int, batch: int, context: int, busy_groups: int
) -> float:
    weights = 2 * model.num_parameters / (degree * card.bytes_per_second)
    arithmetic = 2 * model.num_parameters * batch / (degree * card.flops_per_second)
    kv = batch * context * model.kv_bytes_per_token / (degree * card.bytes_per_second)
    all_reduces = 0.0
    if degree > 1:
        sent_bytes = batch * model.hidden_size * 2 * 2 * (degree - 1) / degree
        sharing = busy_groups if card.shares_link else 1
        each = card.all_reduce_seconds + sharing * sent_bytes / card.link_bytes_per_second
        all_reduces = 2 * model.num_layers * each
    return max(weights, arithmetic) + kv + all_reduces + batch * SEQUENCE_SECONDS


def _switch(card: _Card, one: int, two: int, recomputed_token_seconds: float) -> SwitchTerms:
    """Each rank holds an even share of the KV and sends (or gets) all but the heads it keeps."""
    narrow, wide = min(one, two), max(one, two)
    moved_share = (1 - narrow / wide) / FOOTPRINT
    return SwitchTerms(
        fixed_seconds=0.05,
        request_seconds=0.001,
        exchange_seconds=0.0,
        migrated_request_seconds=0.0,
        byte_seconds=UNDER_LOAD * moved_share / card.link_bytes_per_second,
        recomputed_token_seconds=recomputed_token_seconds,
        relative_error_p90=OTHER_UNCERTAINTY,
    )

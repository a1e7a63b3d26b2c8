"""Does the probe of `parts.core_speed` run as fast beside one layout as beside another?

`generation.py` corrects gains for the slowness of the cores (`gain_at_equal_speed`). That is fair only if no
layout slows the probe itself. Here, requests decode on two CPU ranks, the layout changes every few seconds,
and the probe's time in each block is compared with the blocks before and after it, because the load from
neighbours on a shared host changes more slowly than that.

    python benchmarks/probe_bias.py [--model 210M] [--dtype bfloat16] [--requests 64] [--blocks 60]

Prints by what share the probe takes longer beside TP2 than beside TP1, with its 95 % interval.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from generation import SHAPES
from parts.core_speed import CoreSpeed
from parts.live_replica import replica_settings
from parts.random_qwen3 import VOCABULARY, make_model
from rich.console import Console
from rich.progress import track

from taper_policy.arrays import FloatArray
from taper_rollout.profiling.load import Prompts, decoding
from taper_rollout.profiling.profiler import EngineSwitch
from taper_rollout.profiling.replica_settings import engine_settings
from taper_rollout.sglang.engine import ElasticEngine

BLOCK_SECONDS, SETTLE_SECONDS = 3.0, 0.5
PROMPT_TOKENS, RESAMPLES = 4, 10_000


async def slownesses(model: str, options: argparse.Namespace) -> FloatArray:
    """The probe's seconds in each block, beside TP2 and TP1 in turn."""
    settings = replica_settings(
        model,
        dtype=options.dtype,
        requests=options.requests,
        max_tokens=options.max_tokens,
        profile=None,
        profiles=Path(model),
    )
    engine = ElasticEngine(engine_settings(settings))
    await engine.start()
    try:
        switch, prompts = EngineSwitch(engine, settings.rollout.switch.timeout_seconds), Prompts(VOCABULARY)
        found = []
        with CoreSpeed() as cores:
            for begin in track(range(0, options.blocks, options.blocks_a_load), description="loads"):
                load = [prompts.fresh(PROMPT_TOKENS) for _ in range(options.requests)]
                async with decoding(engine, load, max_tokens=options.max_tokens):
                    for block in range(begin, begin + options.blocks_a_load):
                        await switch(1 if block % 2 else 2, "migrate")
                        await asyncio.sleep(SETTLE_SECONDS)
                        started_at = time.time()
                        await asyncio.sleep(BLOCK_SECONDS)
                        found.append(cores.slowness(started_at, time.time()))
        return np.array(found)
    finally:
        await engine.close()


def bias(found: FloatArray) -> FloatArray:
    """For each block but the first and last: ln of the probe's seconds beside TP2 over those beside TP1."""
    logs = np.log(found)
    around = (logs[:-2] + logs[2:]) / 2
    sign = np.where(np.arange(1, len(found) - 1) % 2, -1.0, 1.0)
    differences: FloatArray = sign * (logs[1:-1] - around)
    return differences


def main() -> int:
    """Run and print; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=list(SHAPES), default="210M")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--max-tokens", type=int, default=256)
    parser.add_argument("--blocks", type=int, default=60)
    parser.add_argument("--blocks-a-load", type=int, default=6, help="blocks before new requests are sent")
    options = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    with tempfile.TemporaryDirectory() as model:
        make_model(Path(model), SHAPES[options.model], dtype=options.dtype, max_tokens=4096)
        found = bias(asyncio.run(slownesses(model, options)))
    picks = np.random.default_rng(0).integers(len(found), size=(RESAMPLES, len(found)))
    low, high = np.quantile(found[picks].mean(axis=1), (0.025, 0.975))
    Console().print(
        f"the probe takes {np.expm1(found.mean()):+.1%} [{np.expm1(low):+.1%}, {np.expm1(high):+.1%}] longer "
        f"beside TP2 than beside TP1: {options.requests} requests, {len(found)} blocks",
        highlight=False,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The pause of a switch under load, with its parts: `python benchmarks/switch.py [--repeats 20]`.

Eight live requests of about 512 tokens on two CPU ranks decode with log-probs at
temperature 1 while the layout changes back and forth. The pause is the wall time from
the last decode step before a switch to the step after which all of its requests decode
again, re-admission included. It is given in narrow decode steps, measured between the
switches of the same run, so that figures of different machines can be compared.

Prints a table and writes JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from parts.random_qwen3 import M210, make_model
from rich.console import Console
from rich.table import Table

from taper_policy.profile.kv_choice import KvMode
from taper_rollout.profiling.kv_budget import read_model_shape
from taper_rollout.sglang.engine import ElasticEngine
from taper_rollout.sglang.engine_settings import EngineSettings
from taper_rollout.switching.figures import SwitchFigures

REQUESTS, CONTEXT_TOKENS = 8, 512
STEPS_BETWEEN_SWITCHES = 4


def response_tokens(repeats: int) -> int:
    """More than a request decodes between and during the switches."""
    return 4 * STEPS_BETWEEN_SWITCHES * repeats + 256


async def measure(model: str, dtype: str, repeats: int, kv: KvMode) -> list[dict[str, Any]]:
    """`repeats` widenings and as many narrowings of one live batch; a row for each."""
    # Room for all at once: SGLang admits a request only where what it may still write would fit.
    kv_tokens = REQUESTS * (CONTEXT_TOKENS + response_tokens(repeats))
    engine = ElasticEngine(
        EngineSettings(
            model_path=model,
            footprint=2,
            degrees=(1, 2),
            dtype=dtype,
            kv_tokens=kv_tokens,
            max_running_requests=REQUESTS,
            context_tokens=4096,
            staging_bytes_per_rank=read_model_shape(model, dtype).staging_bytes(kv_tokens, 1),
        )
    )
    await engine.start()
    try:
        return await _switch_back_and_forth(engine, repeats, kv)
    finally:
        await engine.close()


async def _switch_back_and_forth(engine: ElasticEngine, repeats: int, kv: KvMode) -> list[dict[str, Any]]:
    sampling = {"temperature": 1.0, "max_new_tokens": response_tokens(repeats), "ignore_eos": True}
    requests = [
        asyncio.create_task(
            engine.generate([2 + (i * 31 + k) % 4000 for k in range(CONTEXT_TOKENS)], sampling, logprobs=True)
        )
        for i in range(REQUESTS)
    ]
    rows: list[dict[str, Any]] = []
    await _all_decode(engine)
    for epoch in range(1, 2 * repeats + 1):
        degree = 2 if engine.degree == 1 else 1
        step_seconds = await _decode(engine, STEPS_BETWEEN_SWITCHES)
        started = time.perf_counter()
        figures = await engine.switch(degree, kv=kv, epoch=epoch, deadline_seconds=60)
        switch_seconds = time.perf_counter() - started
        figures = await engine.resumed(figures, deadline_seconds=60)
        rows.append(
            {
                "to_degree": degree,
                "step_seconds_before": step_seconds,
                "pause_seconds": figures.pause_seconds,
                "switch_seconds": switch_seconds,
                "blocked_seconds": figures.blocked_seconds,
                "parts_seconds": _parts(figures),
                "live_tokens": figures.live_tokens,
                "moved_bytes": figures.moved_bytes,
                "prefilled_tokens": figures.prefilled_tokens,
            }
        )
        print(f"\r{epoch}/{2 * repeats} switches", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    engine.abort_all()
    await asyncio.gather(*requests)
    return rows


async def _all_decode(engine: ElasticEngine, timeout_seconds: float = 900.0) -> None:
    """Wait until every request has been prefilled and decodes."""
    deadline = time.monotonic() + timeout_seconds
    while sum(record.read().running for record in engine.records) < REQUESTS or any(
        record.read().waiting for record in engine.records
    ):
        if time.monotonic() > deadline:
            raise TimeoutError("the requests were not prefilled")
        await asyncio.sleep(0.05)
    await _decode(engine, STEPS_BETWEEN_SWITCHES)


def _parts(figures: SwitchFigures) -> dict[str, float]:
    """The pause, split: waiting for the other rank's step, agreeing, moving, admitting, first step."""
    parts = figures.parts_seconds
    return {
        "wait for the boundary": parts["quiesce"] - parts["offer"],
        "pack and agree": parts["offer"] + parts["agree"] - parts["quiesce"],
        "drain and unpack": parts["drain"] + parts["requests"],
        "KV": parts["kv"],
        "admit": figures.commit_seconds,
        "first step": max(0.0, figures.pause_seconds - figures.blocked_seconds),
    }


async def _decode(engine: ElasticEngine, steps: int, timeout_seconds: float = 120.0) -> float:
    """Let every rank make `steps` decode steps; returns the median of their seconds."""
    for reader in engine.records:
        reader.new_steps()
    seconds: list[list[float]] = [[] for _ in engine.records]
    deadline = time.monotonic() + timeout_seconds
    while min(len(s) for s in seconds) < steps:
        if time.monotonic() > deadline:
            raise TimeoutError("the ranks do not decode")
        for reader, collected in zip(engine.records, seconds, strict=True):
            collected += [step.seconds for step in reader.new_steps()]
        await asyncio.sleep(0.002)
    return statistics.median(s for collected in seconds for s in collected)


def quantile(values: list[float], share: float) -> float:
    """The smallest value that at least `share` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -(-int(share * 1000) * len(ordered) // 1000) - 1))]


def summarise(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Pause of the widenings and narrowings in narrow decode steps, and each part's median."""
    narrow = statistics.median(r["step_seconds_before"] for r in rows if r["to_degree"] == 2)
    wide = statistics.median(r["step_seconds_before"] for r in rows if r["to_degree"] == 1)
    summary: dict[str, Any] = {"narrow_step_seconds": narrow, "wide_step_seconds": wide}
    for name, degree in (("widen", 2), ("narrow", 1)):
        mine = [r for r in rows if r["to_degree"] == degree]
        steps = [r["pause_seconds"] / narrow for r in mine]
        summary[name] = {
            "switches": len(mine),
            "pause_seconds_p50": quantile([r["pause_seconds"] for r in mine], 0.5),
            "pause_seconds_p95": quantile([r["pause_seconds"] for r in mine], 0.95),
            "pause_steps_p50": quantile(steps, 0.5),
            "pause_steps_p95": quantile(steps, 0.95),
            "pause_steps_max": max(steps),
            "moved_bytes": statistics.median(r["moved_bytes"] for r in mine),
            "prefilled_tokens_max": max(r["prefilled_tokens"] for r in mine),
            "parts_seconds_p50": {
                part: statistics.median(r["parts_seconds"][part] for r in mine)
                for part in mine[0]["parts_seconds"]
            },
        }
    return summary


def show(summary: dict[str, Any]) -> None:
    """Print the summary as a table."""
    narrow = summary["narrow_step_seconds"]
    table = Table(title=f"Pause of a switch; a narrow decode step takes {narrow * 1e3:.1f} ms")
    for column in ("", "widen 1→2", "narrow 2→1"):
        table.add_column(column, justify="left" if not column else "right")
    pair = [summary["widen"], summary["narrow"]]
    table.add_row("switches", *(str(p["switches"]) for p in pair))
    table.add_row("pause p50, narrow steps", *(f"{p['pause_steps_p50']:.2f}" for p in pair))
    table.add_row("pause p95, narrow steps", *(f"{p['pause_steps_p95']:.2f}" for p in pair))
    table.add_row("pause p50, ms", *(f"{p['pause_seconds_p50'] * 1e3:.1f}" for p in pair))
    for part in pair[0]["parts_seconds_p50"]:
        table.add_row(f"  {part}, ms", *(f"{p['parts_seconds_p50'][part] * 1e3:.1f}" for p in pair))
    table.add_row("KV moved, MB", *(f"{p['moved_bytes'] / 1e6:.1f}" for p in pair))
    table.add_row("tokens prefilled, at most", *(str(p["prefilled_tokens_max"]) for p in pair))
    Console().print(table)


def main() -> None:
    """Make the model, measure, print the table and write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=20, help="widenings, and as many narrowings")
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    parser.add_argument("--kv", default="migrate", choices=("migrate", "recompute"))
    parser.add_argument("--output", type=Path, default=Path("build/benchmarks/switch.json"))
    arguments = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    with tempfile.TemporaryDirectory() as directory:
        make_model(Path(directory), M210, dtype=arguments.dtype, max_tokens=4096)
        rows = asyncio.run(measure(directory, arguments.dtype, arguments.repeats, arguments.kv))
    summary = summarise(rows)
    show(summary)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    document = {
        "machine": {"cpus": os.cpu_count(), "processor": platform.processor() or platform.machine()},
        "settings": {"dtype": arguments.dtype, "kv": arguments.kv, "requests": REQUESTS},
        "summary": summary,
        "rows": rows,
    }
    arguments.output.write_text(json.dumps(document, indent=1))
    print(f"written to {arguments.output}")


if __name__ == "__main__":
    main()

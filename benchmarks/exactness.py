"""Are responses the same with and without switches on larger models? `python benchmarks/exactness.py`.

Greedy in float32, two CPU ranks, log-probs on: a stage without a switch, and the same one with
switches at fixed token counts in both directions. Two layouts add in a different order, so a token
may differ where the two best logits nearly tie. Where a response first differs, both logits are
computed again in float64, from the tokens before, and their gap is reported.

Prints a table, writes JSON, and exits with 1 where a response differs at a gap of 1e-4 or more.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from parts.random_qwen3 import M71, M102, M210, VOCABULARY, make_model
from rich.console import Console
from rich.table import Table

from taper_rollout.profiling.kv_budget import read_model_shape
from taper_rollout.sglang.engine import ElasticEngine
from taper_rollout.sglang.engine_settings import EngineSettings

SHAPES = {"71M": M71, "102M": M102, "210M": M210}
REQUESTS, PROMPT_TOKENS, RESPONSE_TOKENS = 8, 16, 256
SWITCHES = ((40, 2), (90, 1), (140, 2), (190, 1))
TIE = 1e-4


def prompts() -> list[list[int]]:
    """The token ids of each request."""
    return [[2 + (31 * i + 7 * k) % (VOCABULARY - 2) for k in range(PROMPT_TOKENS)] for i in range(REQUESTS)]


async def stages(model: str) -> tuple[list[list[int]], list[list[int]]]:
    """The responses of the stage without and with switches."""
    kv_tokens = 2 * REQUESTS * (PROMPT_TOKENS + RESPONSE_TOKENS)
    engine = ElasticEngine(
        EngineSettings(
            model_path=model,
            footprint=2,
            degrees=(1, 2),
            dtype="float32",
            kv_tokens=kv_tokens,
            max_running_requests=REQUESTS,
            context_tokens=1024,
            staging_bytes_per_rank=read_model_shape(model, "float32").staging_bytes(kv_tokens, 1),
        )
    )
    await engine.start()
    try:
        unswitched = await _stage(engine, ())
        await engine.command("flush")
        return unswitched, await _stage(engine, SWITCHES)
    finally:
        await engine.close()


async def _stage(engine: ElasticEngine, switches: tuple[tuple[int, int], ...]) -> list[list[int]]:
    sampling = {"temperature": 0.0, "max_new_tokens": RESPONSE_TOKENS, "ignore_eos": True}
    requests = [asyncio.create_task(engine.generate(prompt, sampling, logprobs=True)) for prompt in prompts()]
    for epoch, (tokens, degree) in enumerate(switches, start=1):
        while max(record.read().longest_tokens for record in engine.records) < tokens:
            await asyncio.sleep(0.005)
        figures = await engine.switch(degree, kv="migrate", epoch=epoch, deadline_seconds=60)
        await engine.resumed(figures, deadline_seconds=60)
    return [list(output["output_ids"]) for output in await asyncio.gather(*requests)]


def gaps(model: str, unswitched: list[list[int]], switched: list[list[int]]) -> list[dict[str, Any]]:
    """For each response that differs: where, and how far apart its two best logits are in float64."""
    import torch
    from transformers import Qwen3ForCausalLM

    found: list[dict[str, Any]] = []
    exact: Any = None
    for index, (one, two) in enumerate(zip(unswitched, switched, strict=True)):
        at = next((i for i, (a, b) in enumerate(itertools.zip_longest(one, two)) if a != b), None)
        if at is None:
            continue
        exact = exact or Qwen3ForCausalLM.from_pretrained(model, dtype=torch.float64)
        with torch.no_grad():
            ids = torch.tensor([prompts()[index] + one[:at]])
            best = exact(ids).logits[0, -1].topk(2).values
        found.append({"request": index, "token": at, "gap": float(best[0] - best[1])})
    return found


def main() -> int:
    """Measure all models, print the table, write the JSON; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--output", type=Path, default=Path("build/benchmarks/exactness.json"))
    arguments = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    table = Table(title=f"{REQUESTS} greedy responses of {RESPONSE_TOKENS} tokens, {len(SWITCHES)} switches")
    for column in ("model", "equal", "differ at a tie", "differ", "gaps in float64"):
        table.add_column(column, justify="left" if column in ("model", "gaps in float64") else "right")
    report: dict[str, Any] = {}
    for name in arguments.models:
        with tempfile.TemporaryDirectory() as directory:
            make_model(
                Path(directory), SHAPES[name], dtype="float32", max_tokens=2048, initializer_range=0.05
            )
            found = gaps(directory, *asyncio.run(stages(directory)))
        ties = [each for each in found if each["gap"] < TIE]
        report[name] = {"requests": REQUESTS, "differences": found}
        gaps_text = ", ".join(f"{each['gap']:.1e} at {each['token']}" for each in found)
        table.add_row(
            name, str(REQUESTS - len(found)), str(len(ties)), str(len(found) - len(ties)), gaps_text or "none"
        )
    Console().print(table)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(report, indent=1) + "\n")
    print(f"written to {arguments.output}")
    return int(any(each["gap"] >= TIE for model in report.values() for each in model["differences"]))


if __name__ == "__main__":
    sys.exit(main())

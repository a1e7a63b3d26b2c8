"""Migrate or recompute, by cost and per request: `python benchmarks/kv_choice.py [--repeats 9]`.

Mixes of live requests on two CPU ranks: all long; all just started, with a few tokens; both; and
siblings that have just started to answer one long prompt. Each mix is switched from narrow to wide and
back in each KV mode: with `auto`, which chooses by costs measured first on the same engine, and with one
choice for all requests. The modes take turns within a repeat, with new requests each time. The pause is
the wall time from the last decode step before a switch to the step after which all of its requests
decode again.

The default model is deep and narrow: prefilling a token is cheap there compared with the exchange for
each layer and request, as it is on GPUs. With a wide model on a CPU, `auto` migrates all.

Prints how many requests `auto` migrated and recomputed, each pause with its quartiles and the profile's
prediction for it, and `auto`'s pause divided by each other mode's, paired by repeat. Writes all of it as
JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import os
import platform
import statistics
import tempfile
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from parts.random_qwen3 import M71, M102, M210, VOCABULARY, Shape, make_model
from rich.console import Console
from rich.table import Table

from taper_api.job.rollout_spec import RolloutSpec, SwitchSpec
from taper_policy.profile.file import profile_as_json
from taper_policy.profile.kv_choice import AUTO, KV_MODES
from taper_policy.profile.profile import Profile
from taper_rollout.profiling.grid import QUICK
from taper_rollout.profiling.load import START_SECONDS, Prompts, decoding, leaders, until
from taper_rollout.profiling.profiler import EngineSwitch, measure_profile
from taper_rollout.profiling.replica_settings import ReplicaSettings, engine_settings
from taper_rollout.sglang.engine import ElasticEngine
from taper_rollout.switching.kv_mode import kv_mode, kv_reported

DEEP = Shape(hidden_size=256, layers=24, heads=4, kv_heads=2, intermediate_size=768)
SHAPES = {"deep": DEEP, "71M": M71, "102M": M102, "210M": M210}
LONG_TOKENS, BEGUN_TOKENS = 768, 4
SIBLINGS = "siblings"
MIXES = {
    "long": (LONG_TOKENS,) * 6,
    "just begun": (BEGUN_TOKENS,) * 12,
    "both": (LONG_TOKENS,) * 4 + (BEGUN_TOKENS,) * 8,
    SIBLINGS: (LONG_TOKENS,) * 8,
}
REQUESTS = max(len(mix) for mix in MIXES.values())
STEPS_BETWEEN_SWITCHES = 3
RESPONSE_TOKENS = 256
CONTEXT_TOKENS = LONG_TOKENS + RESPONSE_TOKENS + 16


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One switch of a mix: the requested KV mode (`asked`), the mode used (`became`), and the pause."""

    mix: str
    repeat: int
    asked: str
    from_degree: int
    to_degree: int
    became: str
    requests: int
    tokens: int
    migrated_requests: int
    recomputed_requests: int
    moved_bytes: int
    prefilled_tokens: int
    pause_seconds: float
    predicted_seconds: float

    @property
    def pair(self) -> str:
        """The degrees before and after."""
        return f"{self.from_degree}→{self.to_degree}"


def replica_settings(model: str, dtype: str) -> ReplicaSettings:
    """A replica with room for all requests in one group."""
    return ReplicaSettings(
        rollout=RolloutSpec(
            footprint=2,
            mode="off",
            samples_per_prompt=1,
            response_tokens=RESPONSE_TOKENS,
            switch=SwitchSpec(kv=AUTO, timeout_seconds=60.0),
            kv_tokens=REQUESTS * CONTEXT_TOKENS,
            max_running_requests=2 * REQUESTS,
        ),
        model_path=model,
        dtype=dtype,
        context_tokens=CONTEXT_TOKENS,
        trust_remote_code=False,
        device="cpu",
        replica=0,
        random_seed=1,
        host="127.0.0.1",
    )


class Bench:
    """A live engine, and the profile with the costs of its switches."""

    def __init__(self, engine: ElasticEngine, switch: EngineSwitch, profile: Profile) -> None:
        self._engine, self._switch, self._profile = engine, switch, profile
        self._prompts = Prompts(VOCABULARY)

    async def run(self, mix: str, asked: str, repeat: int) -> list[Row]:
        """Decode new requests of a mix, and widen and narrow them once."""
        prompts = [self._prompts.fresh(tokens) for tokens in MIXES[mix]]
        if mix == SIBLINGS:
            prompts = prompts[:1] * len(prompts)
        rows = []
        async with decoding(self._engine, prompts, max_tokens=RESPONSE_TOKENS):
            for degree in (2, 1):
                await self._some_steps()
                rows.append(await self._row(mix, asked, repeat, degree))
        return rows

    async def _row(self, mix: str, asked: str, repeat: int, degree: int) -> Row:
        before = self._engine.degree
        figures = await self._switch(degree, kv_mode(asked, self._profile, before, degree))
        assert figures is not None
        terms = self._profile.switch[before, degree]
        predicted = (
            terms.fixed_seconds
            + terms.request_seconds * figures.live_requests
            + terms.exchange_seconds * (figures.migrated_requests > 0)
            + terms.migrated_request_seconds * figures.migrated_requests
            + terms.byte_seconds * figures.migrated_tokens * self._profile.kv_bytes_per_token
            + terms.recomputed_token_seconds * figures.recomputed_tokens
        )
        return Row(
            mix=mix,
            repeat=repeat,
            asked=asked,
            from_degree=before,
            to_degree=degree,
            became=kv_reported(asked, figures),
            requests=figures.live_requests,
            tokens=figures.live_tokens,
            migrated_requests=figures.migrated_requests,
            recomputed_requests=figures.recomputed_requests,
            moved_bytes=figures.moved_bytes,
            prefilled_tokens=figures.prefilled_tokens,
            pause_seconds=figures.pause_seconds,
            predicted_seconds=predicted,
        )

    async def _some_steps(self) -> None:
        readers = leaders(self._engine)
        wanted = [reader.read().steps_total + STEPS_BETWEEN_SWITCHES for reader in readers]

        def have_decoded() -> bool:
            return all(r.read().steps_total >= count for r, count in zip(readers, wanted, strict=True))

        await until(have_decoded, START_SECONDS, "decode")


async def measure(model: str, options: argparse.Namespace, console: Console) -> tuple[Profile, list[Row]]:
    """Start the engine, measure what switches cost, then switch every mix in every KV mode."""
    settings = replica_settings(model, options.dtype)
    engine = ElasticEngine(engine_settings(settings))
    await engine.start()
    try:
        switch = EngineSwitch(engine, settings.rollout.switch.timeout_seconds)
        # Only the costs of switches are needed here: one batch size is enough for decode steps.
        grid = dataclasses.replace(QUICK, batches=(1,), longest_context=LONG_TOKENS, tours=options.tours)
        profile = await measure_profile(engine, settings, switch, grid=grid)
        bench, rows = Bench(engine, switch, profile), []
        for repeat in range(options.repeats):
            for mix in MIXES:
                for turn in range(len(KV_MODES)):
                    asked = KV_MODES[(turn + repeat) % len(KV_MODES)]
                    rows += await bench.run(mix, asked, repeat)
            console.print(f"{repeat + 1}/{options.repeats} repeats", highlight=False)
        return profile, rows
    finally:
        await engine.close()


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median, upper quartile."""
    if len(values) == 1:
        return (values[0],) * 3
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def ratios(rows: Iterable[Row], other: str) -> list[float]:
    """`auto`'s pause over that of another mode, in each repeat. `rows` are of one mix and pair."""
    pauses = {(row.repeat, row.asked): row.pause_seconds for row in rows}
    return [
        pauses[repeat, AUTO] / pauses[repeat, other] for repeat in sorted({repeat for repeat, _ in pauses})
    ]


def summarise(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """An entry for each mix, pair of degrees and KV mode."""
    entries = []
    for mix in MIXES:
        for pair in sorted({row.pair for row in rows}):
            same = [row for row in rows if (row.mix, row.pair) == (mix, pair)]
            for asked in KV_MODES:
                chosen = [row for row in same if row.asked == asked]
                entry: dict[str, Any] = {
                    "mix": mix,
                    "pair": pair,
                    "asked": asked,
                    "became": sorted({row.became for row in chosen}),
                    "migrated_requests": statistics.median(row.migrated_requests for row in chosen),
                    "recomputed_requests": statistics.median(row.recomputed_requests for row in chosen),
                    "pause_seconds": quartiles([row.pause_seconds for row in chosen]),
                    "predicted_seconds": statistics.median(row.predicted_seconds for row in chosen),
                }
                if asked != AUTO:
                    entry["auto_over_this"] = quartiles(ratios(same, asked))
                entries.append(entry)
    return entries


def table(entries: Sequence[dict[str, Any]]) -> Table:
    """A row for each entry."""
    made = Table(title="Pause of a switch by KV mode; median and quartiles")
    for name in (
        "requests",
        "switch",
        "kv",
        "migrated",
        "recomputed",
        "pause, ms",
        "predicted, ms",
        "auto / this",
    ):
        made.add_column(name, justify="left" if name in ("requests", "switch", "kv") else "right")
    for entry in entries:
        made.add_row(
            entry["mix"],
            entry["pair"],
            entry["asked"],
            f"{entry['migrated_requests']:g}",
            f"{entry['recomputed_requests']:g}",
            _spread([1e3 * seconds for seconds in entry["pause_seconds"]], ".1f"),
            f"{1e3 * entry['predicted_seconds']:.1f}",
            _spread(entry["auto_over_this"], ".2f") if "auto_over_this" in entry else "",
            end_section=entry["asked"] == KV_MODES[-1],
        )
    return made


def _spread(numbers: Sequence[float], form: str) -> str:
    low, middle, high = (format(number, form) for number in numbers)
    return f"{middle} [{low}, {high}]"


def costs_table(profile: Profile) -> Table:
    """The measured costs of migrating and recomputing, from the profile."""
    made = Table(title="Measured costs")
    for name in (
        "switch",
        "exchange, ms",
        "migrated request, µs",
        "migrated token, µs",
        "recomputed token, µs",
    ):
        made.add_column(name, justify="left" if name == "switch" else "right")
    for one, two in sorted(profile.switch):
        costs = profile.kv_costs(one, two)
        made.add_row(
            f"{one}→{two}",
            f"{1e3 * costs.exchange_seconds:.2f}",
            f"{1e6 * costs.migrated_request_seconds:.0f}",
            f"{1e6 * costs.migrated_token_seconds:.2f}",
            f"{1e6 * costs.recomputed_token_seconds:.0f}",
        )
    return made


def main() -> None:
    """Measure, print the tables and write the JSON."""
    options = _options()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    # Fixed, because rich assumes a narrow terminal where the output is none.
    console = Console(width=120)
    with tempfile.TemporaryDirectory() as directory:
        make_model(Path(directory), SHAPES[options.model], dtype=options.dtype, max_tokens=4096)
        profile, rows = asyncio.run(measure(directory, options, console))
    entries = summarise(rows)
    console.print(costs_table(profile), table(entries))
    became = {row.became for row in rows if row.asked == AUTO}
    console.print(f"modes that auto used: {', '.join(sorted(became))}", highlight=False)
    document = {
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"cpus": os.cpu_count(), "processor": platform.processor() or platform.machine()},
        "settings": {name: str(value) for name, value in vars(options).items()},
        "profile": profile_as_json(profile),
        "summary": entries,
        "rows": [dataclasses.asdict(row) for row in rows],
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    console.print(f"written to {options.output}", highlight=False)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=9, help="repeats of each mix in each KV mode")
    parser.add_argument("--tours", type=int, default=4, help="switches under each load to measure costs from")
    parser.add_argument("--model", choices=list(SHAPES), default="deep")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="float32")
    parser.add_argument("--output", type=Path, default=Path("build/benchmarks/kv_choice.json"))
    return parser.parse_args()


if __name__ == "__main__":
    main()

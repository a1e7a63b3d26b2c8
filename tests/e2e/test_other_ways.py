"""Other ways to run: VeRL's own command with Taper's rollout, and an existing Ray cluster."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from taper_api import load_job
from taper_rollout import cli
from taper_rollout.job.host import HostResources
from taper_rollout.ledger.ledger_file import read_ledger
from taper_rollout.training import verl_overrides
from taper_rollout.verl.inputs.preparation import prepare
from taper_rollout.verl.session import CPU_ENVIRONMENT, RAY_ENVIRONMENT

pytestmark = pytest.mark.timeout(1200)
GONE_SECONDS = 150
NUM_RANKS = 2
FRESH = 1e-3


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class OwnCommand:
    """What VeRL's own command left: its log, processes, and new files in /dev/shm."""

    log: str
    survivors: list[str]
    segments_left: set[str]

    def largest_differences(self) -> list[float]:
        """Of each step: the largest between a token's probability in the rollout and in the trainer."""
        parts = self.log.split("training/rollout_probs_diff_max:")[1:]
        return [float(rest.split(" ")[0]) for rest in parts]


@pytest.fixture(scope="module")
def notes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Where the sample's reward and weight probe write."""
    directory = tmp_path_factory.mktemp("notes")
    return {"WEIGHT_PROBE_FILE": str(directory / "weights.jsonl"), "ROW_FILE": str(directory / "rows.txt")}


@pytest.fixture(scope="module")
def own_command(
    sample: Path,
    start: Callable[..., Any],
    shared_memory: Callable[[], set[str]],
    tmp_path_factory: pytest.TempPathFactory,
    notes: dict[str, str],
) -> OwnCommand:
    """`python -m verl.trainer.main_ppo … rollout.name=taper`: no reporter, our settings all by default.

    Two steps, with the weight update cut: only from the second on would it hand over other weights.
    """
    output, before = tmp_path_factory.mktemp("verl"), shared_memory()
    job = load_job(sample / "job.yaml")
    prepare(job, output)
    host = HostResources(num_gpus=0, num_cpus=2)
    own = ("+actor_rollout_ref.rollout.custom=", "trainer.total_training_steps=", "trainer.save_freq=")
    arguments = [o for o in verl_overrides(job, host=host, output=output) if not o.startswith(own)]
    arguments += [
        "trainer.total_training_steps=2",
        "trainer.save_freq=-1",
        "ray_kwargs.ray_init.num_cpus=16",
        f"+ray_kwargs.ray_init.num_gpus={NUM_RANKS}",
        "+ray_kwargs.ray_init.include_dashboard=False",
        f"hydra.run.dir={output}",
        "actor_rollout_ref.model.external_lib=stale_weights",
        "actor_rollout_ref.actor.optim.lr=0.001",
    ]
    command = start("verl.trainer.main_ppo", *arguments, **CPU_ENVIRONMENT, **RAY_ENVIRONMENT, **notes)
    code = command.end()
    assert code == 0, command.log.read_text()[-4000:]
    return OwnCommand(
        log=command.log.read_text(),
        survivors=command.survivors(GONE_SECONDS),
        segments_left=shared_memory() - before,
    )


def test_verls_own_command(own_command: OwnCommand) -> None:
    assert "step:1 " in own_command.log
    assert own_command.largest_differences()[0] < FRESH


def test_verls_own_command_leaves_nothing(own_command: OwnCommand) -> None:
    assert own_command.survivors == []
    assert own_command.segments_left == set()


def test_stale_weights_are_detected(own_command: OwnCommand) -> None:
    """The check that the other runs pass: with the update cut it fails, from the second step on."""
    first, second = own_command.largest_differences()
    assert first < FRESH < second


@pytest.fixture
def cluster(
    start: Callable[..., Any], tmp_path_factory: Any, notes: dict[str, str]
) -> Iterator[tuple[Any, str]]:
    """The address of a Ray cluster of one node that was started separately."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    directory = tmp_path_factory.mktemp("r")
    host, port = address.split(":")
    head = start(
        "ray.scripts.scripts",
        "start",
        "--head",
        "--block",
        f"--node-ip-address={host}",
        f"--port={port}",
        f"--num-gpus={NUM_RANKS}",
        "--num-cpus=16",
        "--include-dashboard=false",
        f"--temp-dir={directory}",
        **RAY_ENVIRONMENT,
        **notes,
    )
    head.wait_until(lambda: "Ray runtime started" in head.log.read_text(), "cluster", seconds=120)
    yield head, address
    head.look()
    head.process.terminate()
    head.end(60)
    head.survivors(20)


def ranks_of(head: Any) -> list[psutil.Process]:
    head.look()
    return [p for p in head.family if p.is_running() and "sglang::scheduler" in " ".join(_command(p))]


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def test_a_running_cluster_and_a_rank_that_is_killed(
    sample: Path,
    start: Callable[..., Any],
    cluster: tuple[Any, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    head, address = cluster
    output = tmp_path / "output"
    command = start(
        "taper_rollout.cli",
        "run",
        "-f",
        sample / "job.yaml",
        "--output",
        output,
        "--set",
        "spec.training.steps=1000",
        "--set",
        "spec.rollout.policy={name: predictor}",
        "--set",
        "spec.rollout.responseTokens=160",
        RAY_ADDRESS=address,
        **RAY_ENVIRONMENT,
    )

    def has_a_step() -> bool:
        head.look()
        metrics = output / "metrics.jsonl"
        return metrics.exists() and metrics.read_text().count("\n") >= 1

    command.wait_until(has_a_step, "first step")
    ranks = ranks_of(head)
    assert len(ranks) == NUM_RANKS
    os.kill(ranks[-1].pid, signal.SIGKILL)
    assert command.end(180) == 1
    log = command.log.read_text()
    assert "rank" in log
    assert "Traceback" not in log
    assert json.loads((output / "summary.json").read_text())["outcome"] == "failed"
    assert head.process.poll() is None  # the cluster is not ours to end
    gone = [rank for rank in ranks if rank.is_running() and rank.status() != psutil.STATUS_ZOMBIE]
    assert gone == []
    check_ledger(output, capsys)


def check_ledger(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The ledger up to the loss of the run can be read, and its replay gives equal decisions."""
    [history] = read_ledger(output).histories
    first = next(history.stages())
    assert first.step == 1 and first.has_ended and first.decisions
    assert first.review is not None
    trace = json.loads((output / "traces" / "stage-00001-0.json").read_text())
    assert trace["review"] == first.review.review
    assert cli.main(["replay", str(output)]) == 0
    assert " 0 different" in capsys.readouterr().out
    assert cli.main(["explain", str(output), "--step", "1"]) == 0
    assert capsys.readouterr().out.startswith("step 1, replica 0: ")

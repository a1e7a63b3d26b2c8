"""A rank's process: what SGLang's engine starts instead of its own scheduler process.

It builds the footprint's world once, the groups and stacks of every degree, and then
hands over to the agent. Unlike SGLang's entry (0.5.23, `scheduler.py:6310`) a fault does
not signal the parent, which would kill the facade: it is sent over the control channel
and the process ends with a code; the facade decides.
"""

from __future__ import annotations

import copy
import ctypes
import dataclasses
import functools
import logging
import os
import signal
import sys
import threading
import traceback
from typing import Any

import tqdm
import zmq

from taper_rollout.shared_memory.rank_record import RECORD_BYTES, RecordWriter
from taper_rollout.shared_memory.segment import Regions, Segment
from taper_rollout.shared_memory.switch_journal import JOURNAL_BYTES, JournalWriter
from taper_rollout.switching import rendezvous
from taper_rollout.switching.agent import Agent
from taper_rollout.switching.command import Reply
from taper_rollout.switching.plans import SwitchPlan
from taper_rollout.switching.rank_protocol import RankProtocol

log = logging.getLogger("taper.rank")

FAULT_EXIT_CODE = 70


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RankSettings:
    """The settings of every rank of a replica; equal on all ranks."""

    footprint: int
    degrees: tuple[int, ...]
    engine_arguments: dict[str, Any]
    segment: Segment
    staging_bytes_per_rank: int
    control_address: str
    facade_pid: int
    replica_seed: int
    collective_timeout_seconds: float
    oversubscribed: bool
    plugins: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SegmentMap:
    """Where everything lies in a replica's segment; the same arithmetic in every process."""

    records: tuple[int, ...]
    journals: tuple[int, ...]
    meetings: tuple[int, int]
    groups: Any
    staging: int
    size_bytes: int

    @classmethod
    def plan(cls, footprint: int, degrees: tuple[int, ...], staging_bytes_per_rank: int) -> SegmentMap:
        from taper_rollout.sglang.groups import GroupRegions

        regions = Regions()
        records = tuple(regions.take(RECORD_BYTES) for _ in range(footprint))
        journals = tuple(regions.take(JOURNAL_BYTES) for _ in range(footprint))
        meetings = rendezvous.plan_region(regions, footprint)
        groups = GroupRegions.plan(regions, footprint, degrees)
        staging = regions.take(footprint * staging_bytes_per_rank)
        return cls(
            records=records,
            journals=journals,
            meetings=meetings,
            groups=groups,
            staging=staging,
            size_bytes=regions.end_bytes,
        )

    @classmethod
    def of(cls, settings: RankSettings) -> SegmentMap:
        return cls.plan(settings.footprint, settings.degrees, settings.staging_bytes_per_rank)


def input_address(base: str, rank: int) -> str:
    """Where rank `rank` takes requests; rank 0 keeps the address that SGLang chose."""
    return base if rank == 0 else f"{base}_rank{rank}"


def run_rank(
    settings: RankSettings,
    server_args: Any,
    port_args: Any,
    gpu_id: int,
    tp_rank: int,
    pp_rank: int,
    dp_rank: int | None,
    pipe_writer: Any,
    *_display_ranks: Any,
) -> None:
    """Entry point, with the signature of SGLang's `run_scheduler_process`."""
    _die_with_facade(settings.facade_pid)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    control: Any = zmq.Context.instance().socket(zmq.PUSH)
    control.connect(settings.control_address)

    def send(reply: Reply) -> None:
        control.send(reply.encode())

    try:
        places = SegmentMap.of(settings)
        protocol = RankProtocol(JournalWriter(settings.segment, places.journals[tp_rank]))
        stacks, info = _build(settings, server_args, port_args, gpu_id, tp_rank, protocol)
        pipe_writer.send(info)
        meetings = rendezvous.Rendezvous(
            settings.segment, places.meetings, settings.footprint, tp_rank, os.sched_yield
        )
        Agent(stacks, meetings, protocol, send).run()
    except Exception as error:
        log.error("rank %d failed: %s", tp_rank, traceback.format_exc())
        send(Reply(id=-1, rank=tp_rank, result={}, error=f"{type(error).__name__}: {error}"))
        sys.stderr.flush()
        # Returns when what was sent has left, or after two seconds.
        zmq.Context.instance().destroy(linger=2000)
        os._exit(FAULT_EXIT_CODE)
    control.close(linger=2000)


def _die_with_facade(facade_pid: int) -> None:
    """The kernel kills this process when the facade dies, however it dies.

    A facade that died while this process still started would never be noticed: hence the check.
    """
    set_death_signal, timer_slack = 1, 29
    libc = ctypes.CDLL(None)
    libc.prctl(set_death_signal, signal.SIGKILL)
    libc.prctl(timer_slack, 1000)
    if os.getppid() != facade_pid:
        os._exit(FAULT_EXIT_CODE)


def _hide_bars() -> None:
    """SGLang's bars say themselves whether they show, so that tqdm's own variable changes nothing."""
    shown = tqdm.tqdm.__init__

    @functools.wraps(shown)
    def hidden(bar: Any, *args: Any, **options: Any) -> None:
        shown(bar, *args, **options | {"disable": True})

    tqdm.tqdm.__init__ = hidden


def _build(
    settings: RankSettings, server_args: Any, port_args: Any, gpu_id: int, rank: int, protocol: RankProtocol
) -> tuple[Any, dict[str, Any]]:
    from sglang.srt.distributed import bootstrap
    from sglang.srt.managers.scheduler import configure_scheduler_process
    from sglang.srt.managers.scheduler_components.ipc_channels import SchedulerIpcChannels
    from sglang.srt.plugins import load_plugins
    from sglang.srt.runtime_context import SpawnRanks, get_device, publish

    from taper_rollout.sglang import groups as group_module
    from taper_rollout.sglang.cpu import attention as cpu_attention
    from taper_rollout.sglang.live_requests import sampling
    from taper_rollout.sglang.rank_progress import RankProgress
    from taper_rollout.sglang.rank_stacks import RankStacks
    from taper_rollout.sglang.stacks import StackSite, build_stack

    # tqdm would make a named semaphore, which outlives a killed process in /dev/shm.
    tqdm.tqdm.set_lock(threading.RLock())
    if os.environ.get("TQDM_DISABLE") == "1":
        _hide_bars()
    load_plugins()
    for plugin in settings.plugins:
        _call(plugin)
    sampling.install()
    if server_args.device == "cpu":
        cpu_attention.install()
    publish(server_args, role="scheduler", ranks=SpawnRanks(world_rank=rank, dp_rank=None, gpu_id=gpu_id))
    configure_scheduler_process(server_args, gpu_id)
    _die_with_facade(settings.facade_pid)
    bootstrap.init_parallel_runtime(
        server_args=server_args, device=get_device().device, dist_port=port_args.nccl_port
    )
    on_cpu = get_device().device == "cpu"
    places = SegmentMap.of(settings)
    groups = group_module.build_groups(
        footprint=settings.footprint,
        degrees=settings.degrees,
        rank=rank,
        local_rank=gpu_id,
        backend="gloo" if on_cpu else "nccl",
        shared_memory=settings.segment if on_cpu else None,
        regions=places.groups,
        timeout_seconds=settings.collective_timeout_seconds,
        oversubscribed=settings.oversubscribed,
    )
    ports = copy.copy(port_args)
    ports.scheduler_input_ipc_name = input_address(port_args.scheduler_input_ipc_name, rank)
    ports.rpc_ipc_name = input_address(port_args.rpc_ipc_name, rank)
    channels = SchedulerIpcChannels.create(
        port_args=ports,
        is_rank_zero=True,
        skip_tokenizer_init=True,
        metrics_enabled=False,
        enable_scripted_runtime=False,
    )
    holder: list[RankStacks] = []
    site = StackSite(
        rank=rank,
        random_seed=settings.replica_seed & 0x7FFFFFFF,
        channels=channels,
        on_command=lambda command: holder[0].receive(command),
        has_command=lambda: bool(holder) and holder[0].command is not None,
        on_step=lambda batch, result: holder[0].on_step(batch, result) if holder else None,
        on_idle=lambda: holder[0].on_idle() if holder else None,
        on_abort=lambda names: holder[0].on_abort(names) if holder else None,
    )
    stacks: dict[int, Any] = {}
    for degree in settings.degrees:
        arguments = dict(settings.engine_arguments)
        stacks[degree] = build_stack(
            degree=degree,
            engine_arguments=arguments,
            port_args=ports,
            site=site,
            gpu_id=gpu_id,
            groups=groups,
            base=stacks.get(settings.degrees[0]),
        )
    rank_stacks = RankStacks(
        rank=rank,
        footprint=settings.footprint,
        stacks=stacks,
        degree=settings.degrees[0],
        replica_seed=settings.replica_seed,
        progress=RankProgress(RecordWriter(settings.segment, places.records[rank])),
        protocol=protocol,
        staging=_staging(settings, places, rank, on_cpu),
    )
    holder.append(rank_stacks)
    return rank_stacks, stacks[settings.degrees[0]].scheduler.get_init_info()


def _staging(settings: RankSettings, places: SegmentMap, rank: int, on_cpu: bool) -> Any:
    """How this rank's KV crosses to its peers."""
    from taper_rollout.sglang import kv_exchange
    from taper_rollout.sglang.groups import control_group

    if not on_cpu:
        return lambda plan, like: kv_exchange.DeviceStaging(
            rank,
            kv_exchange.source_tokens(plan),
            like.shape[1],
            _readers(plan),
            like,
        )
    control = control_group(
        settings.segment,
        places.groups,
        settings.footprint,
        rank,
        timeout_seconds=settings.collective_timeout_seconds,
        oversubscribed=settings.oversubscribed,
    )

    def shared(plan: SwitchPlan, like: Any) -> Any:
        return kv_exchange.SharedMemoryStaging(
            settings.segment,
            places.staging,
            settings.staging_bytes_per_rank,
            rank,
            kv_exchange.source_tokens(plan),
            like.shape[1],
            like,
            control.barrier,
        )

    return shared


def _readers(plan: SwitchPlan) -> dict[int, set[int]]:
    readers: dict[int, set[int]] = {}
    for kv in plan.slices:
        readers.setdefault(kv.source_rank, set()).add(kv.target_rank)
    return readers


def _call(path: str) -> None:
    """Run a plugin "module:function" in this process: tests use it to break things on purpose."""
    import importlib

    module, _, function = path.partition(":")
    getattr(importlib.import_module(module), function)()

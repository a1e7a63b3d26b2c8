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
import pkgutil
import signal
import sys
import threading
import traceback
from typing import Any

import tqdm
import zmq

from taper_rollout.sglang.cpu.collectives import FLAG_BYTES, SharedMemoryGroup, region_bytes
from taper_rollout.sglang.engine_settings import EngineSettings
from taper_rollout.shared_memory.rank_record import RECORD_BYTES, RecordWriter
from taper_rollout.shared_memory.segment import Regions, Segment
from taper_rollout.shared_memory.switch_journal import JOURNAL_BYTES, JournalWriter
from taper_rollout.switching import rendezvous
from taper_rollout.switching.agent import run_commands
from taper_rollout.switching.command import Reply
from taper_rollout.switching.rank_protocol import RankProtocol

log = logging.getLogger("taper.rank")

FAULT_EXIT_CODE = 70
CONTROL_SLOT_BYTES = 1 << 16


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SegmentMap:
    """Offsets of everything in a replica's segment.

    `groups`: each group's region for collectives, by degree. `control`: that of all ranks together.
    """

    records: tuple[int, ...]
    journals: tuple[int, ...]
    meetings: tuple[int, int]
    groups: dict[int, tuple[int, ...]]
    control: int
    staging: int
    size_bytes: int

    @classmethod
    def plan(cls, settings: EngineSettings) -> SegmentMap:
        regions, footprint = Regions(), settings.footprint
        return cls(
            records=tuple(regions.take(RECORD_BYTES) for _ in range(footprint)),
            journals=tuple(regions.take(JOURNAL_BYTES) for _ in range(footprint)),
            meetings=rendezvous.plan_region(regions, footprint),
            groups={
                degree: tuple(regions.take(region_bytes(degree)) for _ in range(footprint // degree))
                for degree in settings.degrees
                if degree > 1
            },
            control=regions.take(region_bytes(footprint, CONTROL_SLOT_BYTES) + FLAG_BYTES),
            staging=regions.take(footprint * settings.staging_bytes_per_rank),
            size_bytes=regions.end_bytes,
        )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RankSettings:
    """What every rank of a replica is started with; equal on all ranks."""

    engine: EngineSettings
    segment: Segment
    places: SegmentMap
    control_address: str
    facade_pid: int


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

    try:
        protocol = RankProtocol(JournalWriter(settings.segment, settings.places.journals[tp_rank]))
        stacks, info = _build(settings, server_args, port_args, gpu_id, tp_rank, protocol)
        pipe_writer.send(info)
        meetings = rendezvous.Rendezvous(
            settings.segment, settings.places.meetings, settings.engine.footprint, tp_rank, os.sched_yield
        )
        run_commands(stacks, meetings, protocol, control.send_pyobj)
    except Exception as error:
        log.error("rank %d failed: %s", tp_rank, traceback.format_exc())
        control.send_pyobj(Reply(id=-1, rank=tp_rank, result=None, error=f"{type(error).__name__}: {error}"))
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

    from taper_rollout.sglang.cpu import attention as cpu_attention
    from taper_rollout.sglang.groups import build_groups
    from taper_rollout.sglang.live_requests import sampling
    from taper_rollout.sglang.rank_progress import RankProgress
    from taper_rollout.sglang.rank_stacks import RankStacks
    from taper_rollout.sglang.stacks import BuiltStack, StackSite, build_stack

    # tqdm would make a named semaphore, which outlives a killed process in /dev/shm.
    tqdm.tqdm.set_lock(threading.RLock())
    if os.environ.get("TQDM_DISABLE") == "1":
        _hide_bars()
    load_plugins()
    engine, places = settings.engine, settings.places
    # "module:function": tests use them to break things on purpose.
    for plugin in engine.plugins:
        pkgutil.resolve_name(plugin)()
    sampling.install()
    if engine.device == "cpu":
        cpu_attention.install()
    publish(server_args, role="scheduler", ranks=SpawnRanks(world_rank=rank, dp_rank=None, gpu_id=gpu_id))
    configure_scheduler_process(server_args, gpu_id)
    _die_with_facade(settings.facade_pid)
    bootstrap.init_parallel_runtime(
        server_args=server_args, device=get_device().device, dist_port=port_args.nccl_port
    )
    groups = build_groups(engine, settings.segment, places.groups, rank=rank, local_rank=gpu_id)
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
    site = StackSite(rank=rank, random_seed=engine.replica_seed & 0x7FFFFFFF, channels=channels)
    stacks: dict[int, BuiltStack] = {}
    for degree in engine.degrees:
        stacks[degree] = build_stack(
            degree=degree,
            engine_arguments=engine.arguments(),
            port_args=ports,
            site=site,
            gpu_id=gpu_id,
            groups=groups,
            base=stacks.get(engine.degrees[0]),
        )
    site.owner = RankStacks(
        rank=rank,
        footprint=engine.footprint,
        stacks=stacks,
        degree=engine.degrees[0],
        replica_seed=engine.replica_seed,
        progress=RankProgress(RecordWriter(settings.segment, places.records[rank])),
        protocol=protocol,
        staging=_staging(settings, rank),
    )
    return site.owner, stacks[engine.degrees[0]].scheduler.get_init_info()


def _staging(settings: RankSettings, rank: int) -> Any:
    """How this rank's KV crosses to its peers."""
    from taper_rollout.sglang import kv_exchange

    engine, places = settings.engine, settings.places
    if engine.device != "cpu":
        return functools.partial(kv_exchange.DeviceStaging, rank)
    # Of all ranks of the replica, for barriers inside a switch.
    control = SharedMemoryGroup(
        settings.segment,
        places.control,
        range(engine.footprint),
        rank,
        timeout_seconds=engine.collective_timeout_seconds,
        slot_bytes=CONTROL_SLOT_BYTES,
        oversubscribed=engine.oversubscribed,
    )
    return lambda plan, like: kv_exchange.SharedMemoryStaging(
        settings.segment,
        places.staging,
        engine.staging_bytes_per_rank,
        rank,
        plan,
        like,
        control.barrier,
    )

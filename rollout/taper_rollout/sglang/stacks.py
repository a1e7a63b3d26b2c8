"""A rank's stacks: one complete SGLang scheduler and model runner for each degree, in one process.

Each stack lives under its own SGLang `RuntimeContext` (0.5.23 allows several in a
process, one in use at a time). The base stack loads the weights and allocates the KV
arena; every wider stack is built of views on both (`weight_views`, `kv_arena`), so
building it copies nothing.

Private names touched here, read at SGLang 0.5.23: `Scheduler.init_ipc_channels`,
`init_tp_model_worker`, `init_request_receiver`, `handle_rpc_request`, `abort_request`,
`_release_aborted_request`, `output_streamer.stream_output`
(`managers/scheduler.py`); `bootstrap.init_parallel_runtime`; `load_model_utils
.get_model_loader`; `loader._initialize_model`; `KVCacheConfigurator
._resolve_memory_pool_config`; `MHATokenToKVPool._create_buffers_normal`.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
from sglang.srt import runtime_context
from sglang.srt.distributed import bootstrap
from sglang.srt.layers.dp_attention import initialize_dp_attention
from sglang.srt.managers.io_struct import AbortReq, RpcReqInput
from sglang.srt.managers.schedule_batch import FINISH_ABORT
from sglang.srt.managers.scheduler import Scheduler
from sglang.srt.managers.scheduler_components.ipc_channels import SchedulerIpcChannels
from sglang.srt.managers.scheduler_components.output_sender import SenderWrapper
from sglang.srt.managers.scheduler_components.request_receiver import SchedulerRequestReceiver
from sglang.srt.managers.tp_worker import TpModelWorker
from sglang.srt.mem_cache.kv_cache_configurator import KVCacheConfigurator
from sglang.srt.mem_cache.memory_pool import MHATokenToKVPool
from sglang.srt.model_executor.model_runner_components import load_model_utils
from sglang.srt.model_loader import loader as model_loader
from sglang.srt.model_loader.utils import set_default_torch_dtype
from sglang.srt.server_args import PortArgs, ServerArgs
from sglang.srt.utils.hf_transformers_utils import get_tokenizer

from taper_policy.layout import shard_of
from taper_rollout.sglang import kv_arena, weight_views
from taper_rollout.sglang.groups import TaperGroup
from taper_rollout.switching.command import COMMAND_METHOD, Command


class CommandReceived(Exception):
    """Leaves a scheduler's event loop at an iteration boundary: the only place where a context may change."""

    def __init__(self, command: Command) -> None:
        super().__init__(command.name)
        self.command = command


@dataclasses.dataclass(slots=True, kw_only=True)
class StackSite:
    """What a stack needs from its rank: shared by all stacks of the process.

    `owner`: the `RankStacks`, which follows their steps; None while they are built.
    """

    rank: int
    random_seed: int
    channels: SchedulerIpcChannels
    owner: Any = None


class Stack(Scheduler):
    """SGLang's scheduler, with channels shared by the rank and a way out of its loop for commands."""

    tokenizer: Any
    request_receiver: Any

    def __init__(
        self, server_args: ServerArgs, port_args: PortArgs, site: StackSite, group: TaperGroup
    ) -> None:
        self.site, self.group = site, group
        self._command: Command | None = None
        super().__init__(server_args, port_args)

    @property
    def leads(self) -> bool:
        """Whether this rank receives its group's requests and sends its outputs."""
        return self.group.rank_in_group == 0

    def init_ipc_channels(self, port_args: PortArgs) -> None:
        self.ipc_channels = self.site.channels if self.leads else _SILENT
        self.load_snapshot_writer = None
        self.recv_from_tokenizer = self.ipc_channels.recv_from_tokenizer

    def init_tokenizer(self) -> None:
        super().init_tokenizer()
        if self.tokenizer is None:
            # Outputs leave as token ids, but stop strings and min_new_tokens are judged here.
            self.tokenizer = get_tokenizer(
                self.server_args.tokenizer_path or self.server_args.model_path,
                trust_remote_code=self.server_args.trust_remote_code,
            )

    def init_tp_model_worker(self) -> None:
        # With the seed given, the worker does not broadcast it over the world group, which
        # would name global rank 0 as the source inside groups that do not contain it.
        self.tp_worker = TpModelWorker(
            server_args=self.server_args,
            gpu_id=runtime_context.get_device().gpu_id,
            nccl_port=self.nccl_port,
            random_seed=self.site.random_seed,
        )

    def init_request_receiver(self) -> None:
        super().init_request_receiver()
        stock = self.request_receiver
        fields = {f.name: getattr(stock, f.name) for f in dataclasses.fields(stock)}
        self.request_receiver = GroupRequestReceiver(**fields, group=self.group)

    def handle_rpc_request(self, recv_req: RpcReqInput) -> Any:
        if recv_req.method != COMMAND_METHOD:
            return super().handle_rpc_request(recv_req)
        self._command = Command(**json.loads(recv_req.parameters["command"]))
        return None

    def process_input_requests(self, recv_reqs: list[Any]) -> None:
        super().process_input_requests(recv_reqs)
        command, self._command = self._command, None
        if command is not None:
            raise CommandReceived(command)

    def abort_request(self, recv_req: AbortReq) -> None:
        """End requests. One that waits for its re-admission answers with what it has.

        SGLang answers for all that wait with nothing, as if they had not begun.
        """
        begun = [
            request
            for request in self.waiting_queue
            if len(request.output_ids) and (recv_req.abort_all or request.rid.startswith(recv_req.rid))
        ]
        for request in begun:
            self.waiting_queue.remove(request)
            self._release_aborted_request(request)
            request.to_finish = FINISH_ABORT()
            request.update_finish_state()
        if begun:
            self.output_streamer.stream_output(begun, any(request.return_logprob for request in begun))
            self.site.owner.on_abort([request.rid for request in begun])
        super().abort_request(recv_req)

    def process_batch_result(self, batch: Any, result: Any) -> None:
        super().process_batch_result(batch, result)
        if self.site.owner is not None:
            self.site.owner.on_step(batch, result)

    def on_idle(self) -> None:
        if self.site.owner is not None:
            self.site.owner.on_idle()
        super().on_idle()


@dataclasses.dataclass(kw_only=True, slots=True, frozen=True)
class GroupRequestReceiver(SchedulerRequestReceiver):
    """SGLang's receiver, handing requests to the group's ranks through shared memory where there is some."""

    group: TaperGroup

    def _broadcast_reqs_across_ranks(self, recv_reqs: Any, local_reqs: Any = None) -> list[Any]:
        shared = self.group.shared
        if shared is None or self.group.world_size == 1:
            return SchedulerRequestReceiver._broadcast_reqs_across_ranks(self, recv_reqs, local_reqs)
        own = [*recv_reqs, *(local_reqs or [])] if recv_reqs is not None else None
        return shared.broadcast_object(own or None) or []


_SILENT = SchedulerIpcChannels(
    recv_from_tokenizer=None,
    recv_from_rpc=None,
    send_to_tokenizer=SenderWrapper(None),
    send_to_detokenizer=SenderWrapper(None),
    send_metrics_from_scheduler=None,
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BuiltStack:
    """A stack and the context it must run under."""

    degree: int
    scheduler: Stack
    context: Any

    @contextlib.contextmanager
    def active(self) -> Iterator[Stack]:
        with runtime_context.use_context(self.context):
            yield self.scheduler

    @property
    def runner(self) -> Any:
        return self.scheduler.tp_worker.model_runner


def build_stack(
    *,
    degree: int,
    engine_arguments: dict[str, Any],
    port_args: PortArgs,
    site: StackSite,
    gpu_id: int,
    groups: dict[int, TaperGroup],
    base: BuiltStack | None,
) -> BuiltStack:
    """Build the stack of one degree; `base` is None for the base stack, else what its views point into."""
    server_args = ServerArgs(**engine_arguments, tp_size=degree)
    context = runtime_context.create_context(
        server_args,
        role="scheduler",
        ranks=runtime_context.SpawnRanks(world_rank=shard_of(site.rank, degree), dp_rank=None, gpu_id=gpu_id),
    )
    group, alone = groups[degree], groups[1]
    context.parallel.override_permanently(
        **dict.fromkeys(("world_group", "tp_group", "attn_tp_group", "moe_tp_group"), group),
        **dict.fromkeys(("pp_group", "attn_cp_group", "moe_ep_group", "moe_dp_group"), alone),
    )
    with contextlib.ExitStack() as while_building:
        while_building.enter_context(runtime_context.use_context(context))
        initialize_dp_attention(server_args=server_args)
        # The process's groups exist already; a second build is refused by SGLang.
        while_building.enter_context(mock.patch.object(bootstrap, "init_parallel_runtime", lambda **_: None))
        if base is not None:
            while_building.enter_context(_built_of_views(base, degree, site.rank))
        scheduler = Stack(server_args, copy.copy(port_args), site, group)
    return BuiltStack(degree=degree, scheduler=scheduler, context=context)


@contextlib.contextmanager
def _built_of_views(base: BuiltStack, degree: int, rank: int) -> Iterator[None]:
    """While a wide stack is built: its loader and its pool make views of the base stack's memory."""
    widening = degree // base.degree
    cut = weight_views.ShardCut.of(rank, base.degree, degree)

    def get_loader(load_config: Any, model_config: Any = None) -> Any:
        return _ViewLoader(load_config, base.runner.model, cut)

    def pool_config(configurator: Any, pre_model_load_memory: int) -> Any:
        config = copy.copy(base.runner.memory_pool_config)
        config.max_total_num_tokens = (config.max_total_num_tokens + 1) * widening - 1
        config.max_running_requests = config.max_running_requests * widening
        return config

    def create_buffers(pool: Any) -> None:
        kv_arena.adopt(pool, base.runner.token_to_kv_pool, widening)

    with (
        mock.patch.object(load_model_utils, "get_model_loader", get_loader),
        mock.patch.object(KVCacheConfigurator, "_resolve_memory_pool_config", pool_config),
        mock.patch.object(MHATokenToKVPool, "_create_buffers_normal", create_buffers),
    ):
        yield


class _ViewLoader(model_loader.BaseModelLoader):
    """Loads nothing: builds the model on `meta` and points it into the base model."""

    def __init__(self, load_config: Any, base: torch.nn.Module, cut: weight_views.ShardCut) -> None:
        super().__init__(load_config)
        self._base, self._cut = base, cut

    def download_model(self, model_config: Any) -> None:
        """Nothing to download: the base stack has the weights."""

    def load_model(self, *, model_config: Any, device_config: Any) -> torch.nn.Module:
        with set_default_torch_dtype(model_config.dtype), torch.device("meta"):
            model = model_loader._initialize_model(model_config, self.load_config, None)
        weight_views.adopt(model, self._base, self._cut)
        return model.eval()


def run_until_command(stack: BuiltStack) -> Command:
    """Run a stack's event loop until a command arrives."""
    with stack.active() as scheduler:
        while True:
            try:
                scheduler.run_event_loop()
            except CommandReceived as received:
                return received.command

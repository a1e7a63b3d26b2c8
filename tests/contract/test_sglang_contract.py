"""What Taper takes for granted of SGLang 0.5.23, by name: a failure says what moved, and who relies on it."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.metadata
import inspect
from typing import Any

import pytest

from taper_rollout.job.support_matrix import VERSIONS

# (module below sglang.srt, dotted name in it, who relies on it)
NAMES = [
    ("entrypoints.engine", "Engine._launch_scheduler_processes", "facade.sglang_engine"),
    ("entrypoints.engine", "Engine._launch_detokenizer_subprocesses", "facade.sglang_engine"),
    ("entrypoints.engine", "Engine.run_scheduler_process_func", "engine"),
    ("entrypoints.engine", "Engine.init_tokenizer_manager_func", "facade.sglang_engine"),
    ("entrypoints.engine", "init_tokenizer_manager", "facade.sglang_engine"),
    ("entrypoints.engine", "Engine.shutdown", "engine"),
    ("managers.load_snapshot", "shm_path_for", "engine"),
    ("managers.io_struct", "sock_send", "router"),
    ("managers.io_struct", "RpcReqInput", "engine"),
    ("managers.io_struct", "AbortReq", "engine"),
    ("managers.io_struct", "GenerateReqInput", "engine"),
    ("managers.io_struct", "TokenizedGenerateReqInput", "router"),
    ("managers.io_struct", "PauseGenerationReqInput", "handoff"),
    ("managers.io_struct", "ContinueGenerationReqInput", "handoff"),
    ("managers.tokenizer_manager", "TokenizerManager._dispatch_to_scheduler", "engine"),
    ("managers.tokenizer_manager", "TokenizerManager._async_dispatch_to_scheduler", "engine"),
    ("managers.tokenizer_manager", "TokenizerManager.generate_request", "engine"),
    ("managers.scheduler", "configure_scheduler_process", "rank_process"),
    ("managers.scheduler", "Scheduler.init_ipc_channels", "stacks"),
    ("managers.scheduler", "Scheduler.init_tokenizer", "stacks"),
    ("managers.scheduler", "Scheduler.init_tp_model_worker", "stacks"),
    ("managers.scheduler", "Scheduler.init_request_receiver", "stacks"),
    ("managers.scheduler", "Scheduler.handle_rpc_request", "stacks"),
    ("managers.scheduler", "Scheduler.process_input_requests", "stacks"),
    ("managers.scheduler", "Scheduler.process_batch_result", "stacks"),
    ("managers.scheduler", "Scheduler.on_idle", "stacks"),
    ("managers.scheduler", "Scheduler.abort_request", "stacks"),
    ("managers.scheduler", "Scheduler._release_aborted_request", "stacks"),
    ("managers.scheduler", "Scheduler.run_event_loop", "stacks"),
    ("managers.scheduler", "Scheduler.pause_generation", "handoff"),
    ("managers.scheduler", "Scheduler.continue_generation", "handoff"),
    ("managers.scheduler", "Scheduler.flush_cache", "handoff"),
    ("managers.scheduler", "Scheduler._add_request_to_queue", "handoff"),
    ("managers.scheduler", "Scheduler.get_init_info", "rank_process"),
    ("managers.scheduler_components.ipc_channels", "SchedulerIpcChannels.create", "rank_process"),
    ("managers.scheduler_components.output_sender", "SenderWrapper", "stacks"),
    ("managers.scheduler_components.output_streamer", "SchedulerOutputStreamer.stream_output", "stacks"),
    (
        "managers.scheduler_components.request_receiver",
        "SchedulerRequestReceiver._broadcast_reqs_across_ranks",
        "stacks",
    ),
    ("managers.schedule_batch", "FINISH_ABORT", "stacks"),
    ("managers.schedule_batch", "Req.reset_for_retract", "handoff"),
    ("managers.schedule_batch", "Req.update_finish_state", "stacks"),
    ("managers.schedule_batch", "Req.finished", "handoff"),
    ("managers.schedule_batch", "ReqKvInfo", "handoff"),
    ("managers.tp_worker", "TpModelWorker", "stacks"),
    ("mem_cache.base_prefix_cache", "InsertParams", "handoff"),
    ("mem_cache.radix_cache", "RadixKey", "handoff"),
    ("mem_cache.kv_cache_configurator", "KVCacheConfigurator._resolve_memory_pool_config", "stacks"),
    ("mem_cache.memory_pool", "MHATokenToKVPool._create_buffers_normal", "stacks"),
    ("model_executor.model_runner_components.load_model_utils", "get_model_loader", "stacks"),
    ("model_loader.loader", "_initialize_model", "stacks"),
    ("model_loader.loader", "BaseModelLoader", "stacks"),
    ("model_loader.utils", "set_default_torch_dtype", "stacks"),
    ("observability.req_time_stats", "SchedulerReqTimeStats.new_from_obj", "handoff"),
    ("plugins", "load_plugins", "rank_process"),
    ("runtime_context", "create_context", "stacks"),
    ("runtime_context", "use_context", "stacks"),
    ("runtime_context", "publish", "rank_process"),
    ("runtime_context", "SpawnRanks", "stacks"),
    ("runtime_context", "get_device", "rank_process"),
    ("runtime_context", "ParallelContext.override_permanently", "stacks"),
    ("distributed.bootstrap", "init_parallel_runtime", "stacks"),
    ("distributed.parallel_state", "GroupCoordinator.all_reduce", "groups"),
    ("distributed.parallel_state", "GroupCoordinator.all_gather", "groups"),
    (
        "layers.attention.torch_native_backend",
        "TorchNativeAttnBackend._run_sdpa_forward_extend",
        "cpu_attention",
    ),
    (
        "layers.attention.torch_native_backend",
        "TorchNativeAttnBackend._run_sdpa_forward_decode",
        "cpu_attention",
    ),
    ("layers.dp_attention", "initialize_dp_attention", "stacks"),
    ("layers.sampler", "murmur_hash32", "sampling"),
    ("layers.linear", "ColumnParallelLinear", "weight_views"),
    ("layers.linear", "MergedColumnParallelLinear", "weight_views"),
    ("layers.linear", "QKVParallelLinear", "weight_views"),
    ("layers.linear", "RowParallelLinear", "weight_views"),
    ("layers.vocab_parallel_embedding", "VocabParallelEmbedding", "weight_views"),
    ("sampling.sampling_batch_info", "SamplingBatchInfo.adjusted_from_schedule_batch", "sampling"),
    ("utils.hf_transformers_utils", "get_tokenizer", "engine"),
    ("utils.network", "get_zmq_socket", "engine"),
    ("platforms.cpu", "CpuSRTPlatform.get_default_attention_backend", "cpu_platform"),
    ("platforms.device_mixin", "PlatformEnum.OOT", "cpu_platform"),
    ("platforms.interface", "PlatformCapabilities", "cpu_platform"),
    ("environ", "Envs.SGLANG_ENABLE_TP_MEMORY_INBALANCE_CHECK", "engine_settings"),
    ("environ", "Envs.SGLANG_USE_MESSAGE_QUEUE_BROADCASTER", "engine_settings"),
]
# (module, function, a piece of its source, who relies on it)
LINES = [
    ("managers.scheduler", "Scheduler.__init__", "self.init_ipc_channels(port_args)", "stacks"),
    ("managers.tokenizer_manager", "TokenizerManager", "self.send_to_scheduler", "engine"),
    ("managers.tokenizer_manager", "TokenizerManager", "self.asyncio_tasks", "engine"),
    ("managers.tokenizer_manager", "TokenizerManager", "self.rid_to_state", "engine"),
    ("entrypoints.engine", "Engine", "self.send_to_rpc", "engine"),
    ("managers.tokenizer_manager", "TokenizerManager", "normalize(self.tokenizer)", "engine"),
    ("entrypoints.engine", "Engine", "_subprocess_watchdog = subprocess_watchdog", "engine"),
    ("model_executor.model_runner", "ModelRunner", "self.weight_updater", "rank_engine"),
    ("model_executor.model_runner", "ModelRunner", "self.memory_pool_config", "stacks"),
    ("model_executor.model_runner", "ModelRunner", "self.token_to_kv_pool", "rank_engine"),
    ("managers.schedule_batch", "Req", "self.logprob_start_len", "handoff"),
    ("managers.schedule_batch", "Req", "self.retraction_count", "handoff"),
    ("managers.schedule_batch", "ReqKvInfo", "kv_committed_len", "handoff"),
    ("managers.schedule_batch", "ReqKvInfo", "holds_kv", "handoff"),
    ("sampling.sampling_batch_info", "SamplingBatchInfo", "adjusted_from_schedule_batch(", "sampling"),
]
# The penalizers whose counts `sampling` rebuilds: an unknown one would be forgotten in a switch.
PENALIZERS = {
    "BatchedFrequencyPenalizer": ["frequency_penalties", "cumulated_frequency_penalties"],
    "BatchedPresencePenalizer": ["presence_penalties", "cumulated_presence_penalties"],
    "BatchedRepetitionPenalizer": ["repetition_penalties", "cumulated_repetition_penalties"],
    "BatchedMinNewTokensPenalizer": ["len_output_tokens"],
}


def find(module: str, name: str) -> Any:
    found = importlib.import_module(f"sglang.srt.{module}")
    for part in name.split("."):
        found = getattr(found, part)
    return found


def parameters(function: Any) -> list[str]:
    return list(inspect.signature(function).parameters)


def test_the_version_is_the_one_that_was_read() -> None:
    assert importlib.metadata.version("sglang") == VERSIONS["sglang"]


@pytest.mark.parametrize(("module", "name", "user"), NAMES)
def test_the_name_is_there(module: str, name: str, user: str) -> None:
    assert find(module, name) is not None, f"sglang.srt.{module}.{name}, used by taper_rollout.sglang.{user}"


@pytest.mark.parametrize(("module", "name", "line", "user"), LINES)
def test_the_source_says_so(module: str, name: str, line: str, user: str) -> None:
    source = inspect.getsource(find(module, name))
    assert line in source, f"sglang.srt.{module}.{name}: {line}, used by taper_rollout.sglang.{user}"


@pytest.mark.parametrize("name", PENALIZERS)
def test_a_penalizer_counts_where_we_rebuild_it(name: str) -> None:
    orchestrator = importlib.import_module("sglang.srt.sampling.penaltylib")
    source = inspect.getsource(inspect.getmodule(getattr(orchestrator, name)))
    assert all(f"self.{field}" in source for field in PENALIZERS[name]), name


def test_there_is_no_penalizer_that_we_do_not_know() -> None:
    library = importlib.import_module("sglang.srt.sampling.penaltylib")
    known = {name for name in vars(library) if name.startswith("Batched") and name.endswith("Penalizer")}
    assert known == set(PENALIZERS)


def test_a_rank_is_started_as_sglang_starts_its_scheduler() -> None:
    from taper_rollout.sglang.rank_process import run_rank

    source = inspect.getsource(find("entrypoints.engine", "Engine._launch_scheduler_processes"))
    call = source[source.index("target = run_scheduler_process_func") :]
    call = call[call.index("args = (") + len("args = (") : call.index("proc = mp.Process")]
    passed = [argument.strip() for argument in call.strip().rstrip(")").split(",") if argument.strip()]
    assert passed == ["server_args", "port_args", "gpu_id", "tp_rank", "pp_rank", "None", "writer"]
    ours = ["server_args", "port_args", "gpu_id", "tp_rank", "pp_rank", "dp_rank", "pipe_writer"]
    assert parameters(run_rank)[1:8] == ours


def test_a_group_is_made_with_the_arguments_that_we_give() -> None:
    given = {"group_ranks", "local_rank", "torch_distributed_backend", "use_pynccl", "use_mscclpp"}
    given |= {"use_custom_allreduce", "use_torch_symm_mem_all_reduce", "use_hpu_communicator"}
    given |= {"use_xpu_communicator", "use_message_queue_broadcaster", "group_name"}
    taken = set(parameters(find("distributed.parallel_state", "GroupCoordinator.__init__")))
    assert given <= taken, given - taken


def test_a_receiver_can_be_rebuilt_from_its_fields() -> None:
    receiver = find("managers.scheduler_components.request_receiver", "SchedulerRequestReceiver")
    assert dataclasses.is_dataclass(receiver)
    assert parameters(receiver._broadcast_reqs_across_ranks) == ["self", "recv_reqs", "local_reqs"]


def test_the_channels_have_the_fields_that_a_silent_stack_fills() -> None:
    channels = find("managers.scheduler_components.ipc_channels", "SchedulerIpcChannels")
    fields = {field.name for field in dataclasses.fields(channels)}
    assert fields == {
        "recv_from_tokenizer",
        "recv_from_rpc",
        "send_to_tokenizer",
        "send_to_detokenizer",
        "send_metrics_from_scheduler",
    }


def test_the_server_accepts_our_arguments() -> None:
    from taper_rollout.sglang.engine_settings import EngineSettings

    taken = set(parameters(find("server_args", "ServerArgs")))
    for device in ("cpu", "cuda"):
        settings = EngineSettings(
            model_path="m",
            footprint=2,
            degrees=(1, 2),
            device=device,
            kv_tokens=8,
            context_tokens=8,
            seeded=True,
        )
        assert set(settings.arguments()) <= taken, set(settings.arguments()) - taken


def test_weights_are_updated_between_a_begin_and_an_end() -> None:
    updater = find("model_executor.model_runner_components.weight_updater", "WeightUpdater")
    assert "named_tensors" in parameters(updater.update_weights_from_tensor)
    assert "load_format" in parameters(updater.update_weights_from_tensor)
    assert parameters(updater.begin_weight_update)[0] == "self"
    assert "run_post_load" in parameters(updater.end_weight_update)


def test_the_seeded_sampler_hashes_what_we_compute() -> None:
    assert parameters(find("layers.sampler", "murmur_hash32")) == ["seed", "positions", "col_indices"]

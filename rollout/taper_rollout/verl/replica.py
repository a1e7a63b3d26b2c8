"""The VeRL replica of `rollout.name=taper`: one footprint of ranks behind one server actor (VeRL 0.9.1)."""

from __future__ import annotations

import asyncio
import dataclasses
import os
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from verl.plugin.platform import get_platform
from verl.utils.config import omega_conf_to_dataclass
from verl.workers.config import HFModelConfig
from verl.workers.rollout.replica import RolloutReplica

from taper_rollout.job.requirements import gather_facts
from taper_rollout.job.support_matrix import check_support
from taper_rollout.verl.custom_block import read_block
from taper_rollout.verl.metrics.endpoint import metrics_endpoint
from taper_rollout.verl.metrics.host import serve_metrics
from taper_rollout.verl.replica_name import replica_name
from taper_rollout.verl.server import ReplicaServer
from taper_rollout.verl.settings import replica_settings


class TaperReplica(RolloutReplica):
    """Starts the server actor on the node of its trainer ranks."""

    async def launch_servers(self) -> None:
        """Set VeRL's `servers`, `_server_handle` and `_server_address`.

        Raises `ValueError` for bad settings and a footprint across nodes, and the error of an engine or
        a metrics endpoint that cannot start.
        """
        if len(self.workers) != self.world_size:
            raise ValueError(f"{len(self.workers)} trainer ranks for a footprint of {self.world_size}")
        places = await asyncio.gather(*[worker.__ray_call__.remote(_place) for worker in self.workers])
        self._block = read_block(self.config)
        self._check_support()
        nodes = {node for node, _, _ in places}
        if len(nodes) != 1:
            raise ValueError(
                f"actor_rollout_ref.rollout.tensor_model_parallel_size: a footprint of {self.world_size} "
                f"ranks spans {len(nodes)} nodes; use one that fits on a node"
            )
        node, node_address, _ = places[0]
        devices = sorted({device for _, _, visible in places for device in visible.split(",") if device})
        # Kept, as the actor lives only as long as its handles.
        self.metrics_host = await self._serve_metrics(node, node_address)
        server = self._create_server(node, node_address, devices)
        await server.launch.remote()
        self.servers = [server]
        self._server_handle = server
        address, port = await server.get_server_address.remote()
        self._server_address = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"

    def _check_support(self) -> None:
        """Check the support matrix for VeRL's own command. `taper run` has done so before Ray started."""
        if self._block.run is None:
            settings = {
                "actor_rollout_ref": {"rollout": dataclasses.asdict(self.config), "model": self.model_config},
                "trainer": {"n_gpus_per_node": self.gpus_per_node},
            }
            check_support(gather_facts(settings, is_raw=True))

    async def _serve_metrics(self, node: str, node_address: str) -> Any:
        endpoint = metrics_endpoint(self._block, node_address=node_address)
        return await serve_metrics(endpoint, run=self._block.run, node=node)

    def _create_server(self, node: str, node_address: str, devices: list[str]) -> Any:
        platform = get_platform()
        model: HFModelConfig = omega_conf_to_dataclass(self.model_config, dataclass_type=HFModelConfig)
        checkpoint_dtype = str(getattr(model.hf_config, "dtype", None) or "float32").removeprefix("torch.")
        settings = replica_settings(
            self.config,
            model_path=model.local_path,
            model_dtype=checkpoint_dtype,
            trust_remote_code=model.trust_remote_code,
            replica=self.replica_rank,
            device=platform.device_name,
            node_address=node_address,
        )
        environment = dict.fromkeys(platform.ray_noset_envvars(), "1")
        environment[platform.visible_devices_envvar()] = ",".join(devices)
        return (
            ray.remote(ReplicaServer)
            .options(
                name=replica_name(self.replica_rank, self.name_suffix),
                num_cpus=0,
                max_concurrency=self.max_concurrency,
                scheduling_strategy=NodeAffinitySchedulingStrategy(node_id=node, soft=False),
                runtime_env={"env_vars": environment},
            )
            .remote(
                settings,
                response_length=self.config.response_length,
                free_cache_engine=self.config.free_cache_engine,
                run=self._block.run,
                metrics_host=self.metrics_host,
                profiles=os.path.join(self._block.output or "outputs", "profiles"),
            )
        )


def _place(_worker: Any) -> tuple[str, str, str]:
    """Runs in a trainer rank. Returns its node id, the node's address, and its visible devices."""
    visible = os.environ.get(get_platform().visible_devices_envvar(), "")
    return ray.get_runtime_context().get_node_id(), ray.util.get_node_ip_address(), visible

"""The samples apply as they are: the parser, our CRD, the operator's rules and KubeRay take each of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from taper_api import RLHFJob, parse_job
from taper_api.base.quantity import bytes_of
from taper_api.schema.crd import rlhfjob_crd
from taper_operator.main import main
from taper_rollout.job.requirements import Facts
from taper_rollout.job.support_matrix import VERSIONS, check_support

from ..api.admission import errors
from ..operator.manifests.kuberay_schema import WHY_NOT, rayjob_schema

ROOT = Path(__file__).parents[2]
SAMPLES = sorted((ROOT / "manifests" / "samples").glob("*.yaml"))
QUEUE = ROOT / "manifests" / "samples" / "kueue-queue.yaml"
JOBS = [file for file in SAMPLES if file != QUEUE]
CHART_VALUES = ROOT / "charts" / "taper" / "values.yaml"
# What the image holds, made by images/rollout/Dockerfile.
IN_IMAGE = "/opt/taper/sample"
# Their config.json on the Hugging Face hub; all else in it is of no consequence here.
_QWEN3 = {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "num_key_value_heads": 8}
MODELS = {
    "Qwen/Qwen3-8B": _QWEN3 | {"num_attention_heads": 32, "intermediate_size": 12288},
    "Qwen/Qwen3-14B": _QWEN3 | {"num_attention_heads": 40, "intermediate_size": 17408},
}
# Bytes of a weight in mixed precision: float32 with Adam's two moments and a gradient.
TRAINING_BYTES = 16
WEIGHTS = {"Qwen/Qwen3-8B": 8.2e9, "Qwen/Qwen3-14B": 14.8e9}
GPU_BYTES = {"NVIDIA-H100-80GB-HBM3": 80e9, "NVIDIA-A40": 48e9}


def job(file: Path) -> RLHFJob:
    return parse_job(file.read_text(), str(file))


def by_file(file: Path) -> str:
    return file.stem


each_job = pytest.mark.parametrize("file", JOBS, ids=by_file)


def test_there_is_a_sample_of_each_kind() -> None:
    jobs = {file.stem: job(file).spec for file in JOBS}
    assert set(jobs) == {"cpu", "kueue", "one-node-8b", "spot", "two-nodes-14b"}
    assert jobs["cpu"].gpus_per_node == 0
    assert jobs["two-nodes-14b"].training.nodes == 2
    assert jobs["kueue"].kueue is not None
    assert jobs["spot"].node_pools.gpu.tolerations


@each_job
def test_our_crd_accepts_it_unchanged(file: Path) -> None:
    """The rules in CEL are for an API server to say: tests/cluster applies each."""
    (version,) = rlhfjob_crd()["spec"]["versions"]
    content = yaml.safe_load(file.read_text())
    assert errors(content, version["schema"]["openAPIV3Schema"]) == []
    assert "namespace" not in content["metadata"]


@each_job
def test_the_operator_creates_it_with_the_charts_default_values(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = yaml.safe_load(CHART_VALUES.read_text())["jobs"]
    image, secrets = values["image"], ",".join(values["allowedSecrets"])
    assert main(["render", "-f", str(file), f"--image={image}", f"--allowed-secrets={secrets}"]) == 0
    objects = list(yaml.safe_load_all(capsys.readouterr().out))
    ray_job = objects[-1]
    assert ray_job["kind"] == "RayJob"
    assert ray_job["spec"]["suspend"] is (file.stem == "kueue")
    schema = rayjob_schema()
    if schema is None:
        pytest.skip(WHY_NOT)
    assert errors(ray_job, schema) == []


@each_job
def test_its_data_is_in_the_image_or_referenced_by_name(file: Path) -> None:
    spec = job(file).spec
    assert spec.reward.file is not None
    read = [*spec.data.train, *spec.data.validation, str(spec.reward.file[0])]
    assert all(path.startswith(f"{IN_IMAGE}/") for path in read)
    assert spec.model.path in MODELS or spec.model.path == f"{IN_IMAGE}/model"


@pytest.mark.parametrize("file", [file for file in JOBS if file.stem != "cpu"], ids=by_file)
def test_its_layouts_suit_its_model_and_its_sizes_suit_its_gpus(file: Path) -> None:
    spec = job(file).spec
    degrees = spec.rollout.degrees or (1, 2, 4, 8)
    check_support(
        Facts(
            model=MODELS[spec.model.path],
            settings={},
            versions=VERSIONS,
            footprint=spec.rollout.footprint,
            degrees=degrees,
            ranks_per_node=spec.training.ranks,
        )
    )
    weights, num_gpus = WEIGHTS[spec.model.path], spec.training.ranks * spec.training.nodes
    gpu_bytes = GPU_BYTES[spec.node_pools.gpu.gpu_type or "NVIDIA-H100-80GB-HBM3"]
    # A third is for KV cache and activations.
    assert weights * TRAINING_BYTES / num_gpus + weights * 2 / degrees[0] < gpu_bytes * 2 / 3
    checkpoints = spec.volumes.checkpoints
    assert checkpoints is not None
    assert checkpoints.size is not None
    keep = spec.training.checkpoints.keep
    assert keep is not None
    # Weights and moments; one more is there while it is written.
    assert bytes_of(checkpoints.size) > (keep + 1) * weights * 12
    cache = spec.volumes.model_cache
    assert cache is not None
    assert bytes_of(cache.size or "0Gi") > 2 * weights * 2


def test_the_queue_is_the_samples_and_has_room_for_it() -> None:
    spec = job(QUEUE.with_name("kueue.yaml")).spec
    flavor, cluster_queue, local_queue = yaml.safe_load_all(QUEUE.read_text())
    assert spec.kueue is not None
    assert local_queue["metadata"]["name"] == spec.kueue.queue_name
    assert local_queue["spec"]["clusterQueue"] == cluster_queue["metadata"]["name"]
    (group,) = cluster_queue["spec"]["resourceGroups"]
    (of_flavor,) = group["flavors"]
    assert of_flavor["name"] == flavor["metadata"]["name"]
    quotas = {each["name"]: each["nominalQuota"] for each in of_flavor["resources"]}
    assert sorted(quotas) == sorted(group["coveredResources"])
    head, gpu = spec.node_pools.head, spec.node_pools.gpu
    assert quotas["cpu"] >= 2 * (int(head.cpu or 0) + int(gpu.cpu or 0))
    assert bytes_of(quotas["memory"]) >= 2 * (bytes_of(head.memory) + bytes_of(gpu.memory))
    assert quotas["nvidia.com/gpu"] == 2 * spec.gpus_per_node


def test_the_cpu_sample_is_the_packaged_one_but_for_its_length() -> None:
    packaged: dict[str, Any] = yaml.safe_load(
        (ROOT / "rollout" / "taper_rollout" / "sample" / "job.yaml").read_text()
    )["spec"]
    sample = yaml.safe_load((SAMPLES[0].with_name("cpu.yaml")).read_text())["spec"]
    assert packaged["rollout"] | sample["rollout"] == packaged["rollout"] | {
        "sampling": sample["rollout"]["sampling"]
    }
    assert sample["algorithm"]["learningRate"] == packaged["algorithm"]["learningRate"]
    assert sample["training"] == packaged["training"] | {"steps": 2}

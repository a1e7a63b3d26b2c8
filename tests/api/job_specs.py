"""Valid jobs, over all fields: `valid_jobs()`.

Fields that depend on each other are drawn together; an optional block is there half of the time. A strategy
that depends on nothing is made once: making it costs more than drawing from it.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from hypothesis import strategies as st

Fields = dict[str, Any]

NAMES = st.text("abcdefghijklmnopqrstuvwxyz0123456789-", max_size=20).map(lambda text: f"a{text}z")
LABEL_KEYS = st.sampled_from(
    ["pool", "example.com/zone", "nvidia.com/gpu.product", "a", "X_y.z", "topology.example/rack"]
)
LABEL_VALUES = st.sampled_from(["", "h100", "NVIDIA-H100-80GB-HBM3", "a.b_c-d", "1", "x" * 63])
CPUS = (
    st.integers(1, 512)
    | st.integers(1, 512).map(str)
    | st.integers(1000, 9000).map(lambda milli: f"{milli}m")
)
BYTES = st.tuples(st.integers(1, 999999), st.sampled_from(["Mi", "Gi", "Ti", "M", "G", "T"])).map(
    lambda pair: f"{pair[0]}{pair[1]}"
)
# Of one UTF-16 unit each: a parser of YAML does not put the two of a JSON escape together.
TEXTS = st.text(st.characters(max_codepoint=0xFFFF, exclude_categories=["Cs", "Cc"]), min_size=1, max_size=40)
SEEDS = st.integers(0, 2**31 - 1)
LEVELS = st.sampled_from(["topology.example/rack", "kubernetes.io/hostname"])


@cache
def labels(most: int = 3) -> st.SearchStrategy[Fields]:
    return st.dictionaries(LABEL_KEYS, LABEL_VALUES, max_size=most)


def fields(required: dict[str, Any] | None = None, /, **optional: Any) -> st.SearchStrategy[Fields]:
    """A mapping; an optional field may be left out, or be null, which means the same."""
    return st.fixed_dictionaries(required or {}, optional={k: st.none() | v for k, v in optional.items()})


@st.composite
def valid_jobs(draw: st.DrawFn) -> Fields:
    """Whole resources that both the parser and an API server accept."""
    degrees = sorted(draw(st.sets(st.sampled_from([1, 2, 4, 8]), min_size=1)))
    footprint = degrees[-1]
    ranks, nodes = footprint * draw(st.integers(1, 4)), draw(st.integers(1, 4))
    num_gpus = draw(st.sampled_from([None, ranks, 0]))
    rollout = draw(_rollout(degrees, ranks * nodes // footprint))
    data = draw(_data())
    if "kvTokens" in rollout:
        rollout["kvTokens"] += (data.get("maxPromptTokens") or 512) + rollout["responseTokens"]
    kueue = draw(_kueue())
    spec = {
        "model": draw(_model()),
        "data": data,
        "reward": draw(_reward()),
        "algorithm": draw(_algorithm(ranks * nodes)),
        "training": draw(_training(ranks, nodes, has_validation=bool(data.get("validation")))),
        "rollout": rollout,
        "verl": draw(_verl()),
        "nodePools": {
            "head": draw(_pool(has_kueue=kueue is not None)),
            "gpu": draw(_gpu_pool(ranks, nodes, num_gpus, has_kueue=kueue is not None)),
            "startupTimeoutSeconds": draw(st.integers(60, 86400)),
        },
        "volumes": draw(_volumes()),
        **draw(_run()),
    }
    if rollout["samplesPerPrompt"] == 1:
        spec["algorithm"]["name"] = "ppo"
    if kueue is not None:
        spec["kueue"] = kueue
    for name in draw(st.sets(st.sampled_from(["algorithm", "verl", "nodePools", "volumes"]))):
        if name != "algorithm" or rollout["samplesPerPrompt"] > 1:
            del spec[name]
    return {
        "apiVersion": "taper.dev/v1alpha1",
        "kind": "RLHFJob",
        "metadata": draw(_metadata()),
        "spec": spec,
    }


@cache
def _metadata() -> st.SearchStrategy[Fields]:
    return fields({"name": NAMES}, labels=labels(), annotations=labels())


@cache
def _model() -> st.SearchStrategy[Fields]:
    return fields({"path": TEXTS}, dtype=st.just("bfloat16"), trustRemoteCode=st.booleans())


@cache
def _kueue() -> st.SearchStrategy[Fields | None]:
    return st.none() | fields({"queueName": NAMES}, priorityClass=NAMES)


@cache
def _data() -> st.SearchStrategy[Fields]:
    files = st.lists(
        st.sampled_from(["a.jsonl", "/mnt/data/b.parquet", "dir/c d.jsonl"]), min_size=1, max_size=4
    )
    return fields(
        {"train": files},
        validation=files,
        promptField=st.just("question"),
        maxPromptTokens=st.integers(1, 8192),
        overlong=st.sampled_from(["error", "filter", "truncate"]),
        shuffle=st.booleans(),
        seed=SEEDS,
    )


@cache
def _reward() -> st.SearchStrategy[Fields]:
    settings = st.dictionaries(
        st.text("abc.", min_size=1),
        st.none() | st.integers(0, 9) | st.lists(st.booleans()) | st.just({"a": None}),
        max_size=3,
    )
    return fields(
        {"function": st.sampled_from(["exact-match", "math", "rewards/mine.py:score", "/a/b c.py:f_1"])},
        settings=settings,
    )


@cache
def _learning() -> st.SearchStrategy[Fields]:
    return fields(
        name=st.sampled_from(["grpo", "ppo", "dapo"]),
        learningRate=st.floats(1e-9, 1),
        klCoefficient=st.floats(0, 1) | st.just(0),
        clipRatio=st.floats(0.01, 0.99),
        entropyCoefficient=st.floats(0, 1),
        epochsPerStep=st.integers(1, 4),
    )


@st.composite
def _algorithm(draw: st.DrawFn, num_ranks: int) -> Fields:
    algorithm = draw(_learning())
    if draw(st.booleans()):
        algorithm["miniBatchPrompts"] = num_ranks  # of which `_training` makes the batch a multiple
    return algorithm


@cache
def _checkpoints() -> st.SearchStrategy[Fields]:
    return fields(
        {"everySteps": st.integers(1, 99)},
        keep=st.integers(1, 9),
        directory=st.just("/mnt/checkpoints/a"),
        resume=st.sampled_from(["auto", "never"]),
    )


@cache
def _seed() -> st.SearchStrategy[Fields]:
    return fields(seed=SEEDS)


@st.composite
def _training(draw: st.DrawFn, ranks: int, nodes: int, *, has_validation: bool) -> Fields:
    training: Fields = {
        "steps": draw(st.integers(1, 10_000)),
        "batchPrompts": ranks * nodes * draw(st.integers(1, 8)),
        "ranks": ranks,
        "checkpoints": draw(_checkpoints()),
        **draw(_seed()),
    }
    if nodes > 1 or draw(st.booleans()):
        training["nodes"] = nodes
    if has_validation:
        training["validation"] = draw(fields(everySteps=st.integers(1, 9), before=st.booleans()))
    return training


@cache
def _generation() -> st.SearchStrategy[Fields]:
    return fields(
        mode=st.sampled_from(["off", "advise", "enforce"]),
        sampling=fields(
            temperature=st.floats(0, 2),
            topP=st.floats(0.1, 1),
            topK=st.just(-1) | st.integers(1, 100),
            seed=SEEDS,
        ),
        switch=fields(
            kv=st.sampled_from(["auto", "migrate", "recompute"]), timeoutSeconds=st.floats(1, 3600)
        ),
        maxRunningRequests=st.integers(1, 512),
        profile=st.just("profile.json"),
    )


@st.composite
def _rollout(draw: st.DrawFn, degrees: list[int], num_replicas: int) -> Fields:
    response_tokens = draw(st.integers(64, 32768))
    rollout: Fields = {
        "footprint": degrees[-1],
        "samplesPerPrompt": draw(st.integers(1, 16)),
        "responseTokens": response_tokens,
        "policy": draw(_policy(degrees, response_tokens)),
        **draw(_generation()),
    }
    if degrees != [degree for degree in (1, 2, 4, 8) if degree <= degrees[-1]] or draw(st.booleans()):
        rollout["degrees"] = degrees
    if draw(st.booleans()):
        rollout["kvTokens"] = draw(st.integers(0, 9999))  # above the least, which `valid_jobs` adds
    if draw(st.booleans()):
        rollout |= {"port": 20000, "metrics": {"port": draw(st.sampled_from([19999, 20000 + num_replicas]))}}
    return rollout


@st.composite
def _policy(draw: st.DrawFn, degrees: list[int], response_tokens: int) -> Fields:
    name = draw(st.sampled_from(["predictor", "widen-at-once", "threshold", "schedule"]))
    if name == "schedule" and len(degrees) > 1:
        tokens = sorted(draw(st.sets(st.integers(1, response_tokens - 1), min_size=1, max_size=16)))
        ends = [degrees[-1], degrees[0]]
        return {
            "name": name,
            "schedule": [{"tokens": at, "degree": ends[i % 2]} for i, at in enumerate(tokens)],
        }
    if name == "threshold":
        return {"name": name, "threshold": draw(fields(requests=st.integers(1, 64)))}
    if name == "widen-at-once":
        return {"name": name}
    share = st.floats(0, 1)
    return draw(fields(predictor=fields(marginSeconds=share, marginShare=share, confidence=share)))


@cache
def _verl() -> st.SearchStrategy[Fields]:
    values = (
        st.none()
        | st.integers(0, 9)
        | st.booleans()
        | st.just(["console"])
        | st.just({"lr": 1e-5, "x": None})
    )
    names = [
        "trainer.logger",
        "trainer.x_1",
        "actor_rollout_ref.actor.optim",
        "critic",
        "ray_kwargs.ray_init",
    ]
    return st.dictionaries(st.sampled_from(names), values, max_size=3)


@cache
def _any_pool() -> st.SearchStrategy[Fields]:
    return fields(
        cpu=CPUS,
        ephemeralStorage=BYTES,
        nodeSelector=labels(),
        tolerations=st.lists(_toleration(), max_size=3),
        affinity=_affinity(),
        priorityClassName=st.sampled_from(["training", "a.b"]),
        runtimeClassName=st.just("nvidia"),
        overlay=_overlay(),
    )


@st.composite
def _pool(draw: st.DrawFn, *, has_kueue: bool) -> Fields:
    shared, memory = draw(st.sampled_from([(None, "1Gi"), ("1024Mi", "1Gi"), ("64Gi", "1Ti"), ("1G", "1Gi")]))
    pool = {"memory": memory, "sharedMemory": shared} | draw(_any_pool())
    if has_kueue and draw(st.booleans()):
        pool["topology"] = draw(_topology())
    return pool


@cache
def _topology() -> st.SearchStrategy[Fields]:
    return fields({"required": LEVELS}) | fields({"preferred": LEVELS})


@cache
def _rdma() -> st.SearchStrategy[Fields]:
    names = st.sampled_from(["rdma/hca_shared_devices_a", "vpc.amazonaws.com/efa"])
    return fields({"resource": names}, count=st.integers(1, 8), ipcLock=st.booleans())


@st.composite
def _gpu_pool(draw: st.DrawFn, ranks: int, nodes: int, num_gpus: int | None, *, has_kueue: bool) -> Fields:
    pool = draw(_pool(has_kueue=has_kueue)) | draw(fields(nodes=st.just(nodes), gpuType=LABEL_VALUES))
    pool.pop("cpu", None)
    if num_gpus is not None:
        pool["gpusPerNode"] = num_gpus
    if draw(st.booleans()):
        pool["cpu"] = draw(st.sampled_from([3 * ranks, f"{3 * ranks}", f"{3000 * ranks}m", f"{3 * ranks}.5"]))
    if num_gpus != 0 and draw(st.booleans()):
        pool["rdma"] = draw(_rdma())
    return pool


@cache
def _toleration() -> st.SearchStrategy[Fields]:
    effects = st.sampled_from(["NoSchedule", "PreferNoSchedule", "NoExecute"])
    return st.one_of(
        fields({"key": LABEL_KEYS, "operator": st.just("Exists")}, effect=effects),
        fields({"key": LABEL_KEYS}, value=LABEL_VALUES, effect=effects),
        fields({"key": LABEL_KEYS, "effect": st.just("NoExecute")}, tolerationSeconds=st.integers(0, 600)),
    )


@cache
def _affinity() -> st.SearchStrategy[Fields]:
    values = st.lists(LABEL_VALUES, min_size=1, max_size=3)
    expression = fields(
        {"key": LABEL_KEYS, "operator": st.sampled_from(["In", "NotIn"]), "values": values}
    ) | fields({"key": LABEL_KEYS, "operator": st.sampled_from(["Exists", "DoesNotExist"])})
    term = fields({"matchExpressions": st.lists(expression, min_size=1, max_size=2)})
    pods = fields({"labelSelector": fields({"matchLabels": labels()}), "topologyKey": LEVELS})
    required, preferred = (
        f"{word}DuringSchedulingIgnoredDuringExecution" for word in ("required", "preferred")
    )
    weight = st.integers(1, 100)
    nodes = {
        required: fields({"nodeSelectorTerms": st.lists(term, min_size=1, max_size=2)}),
        preferred: st.lists(fields({"weight": weight, "preference": term}), max_size=2),
    }
    others = {
        required: st.lists(pods, max_size=2),
        preferred: st.lists(fields({"weight": weight, "podAffinityTerm": pods}), max_size=2),
    }
    return fields(
        nodeAffinity=fields(**nodes), podAffinity=fields(**others), podAntiAffinity=fields(**others)
    )


@cache
def _overlay() -> st.SearchStrategy[Fields]:
    ids = st.integers(1, 65535)
    return fields(
        labels=st.dictionaries(st.sampled_from(["team", "a.b", "Cost_centre"]), LABEL_VALUES),
        annotations=st.just({"karpenter.sh/do-not-disrupt": "true"}),
        runAsUser=ids,
        fsGroup=ids,
        supplementalGroups=st.lists(ids, max_size=3),
        terminationGracePeriodSeconds=st.integers(10, 3600),
    )


@cache
def _checkpoints_volume() -> st.SearchStrategy[Fields]:
    made = fields({"size": BYTES}, storageClassName=NAMES, accessMode=st.just("ReadWriteOnce"))
    return made | fields({"claimName": NAMES}, subPath=st.just("runs/a"))


@st.composite
def _volumes(draw: st.DrawFn) -> Fields:
    volumes: Fields = {}
    if draw(st.booleans()):
        volumes["checkpoints"] = draw(_checkpoints_volume())
    if draw(st.booleans()):
        volumes["modelCache"] = draw(
            fields(size=BYTES) | fields({"claimName": NAMES}, subPath=st.just("hub"))
        )
    paths = draw(
        st.lists(
            st.sampled_from(["/mnt/data", "/mnt/prompts/a", "/mnt/prompts/b", "/mnt/data2"]), unique=True
        )
    )
    volumes["data"] = [
        draw(fields({"claimName": NAMES, "mountPath": st.just(path)}, readOnly=st.booleans()))
        for path in paths
    ]
    return volumes


@cache
def _run() -> st.SearchStrategy[Fields]:
    """What says how the job is run, beside its pods."""
    secret = fields({"name": NAMES, "key": st.sampled_from(["token", "a.b_C-d"])})
    variable = st.sampled_from(["HF_TOKEN", "WANDB_API_KEY", "_x1", "MY_RAY_"])
    variables = st.one_of(
        fields({"name": variable, "value": TEXTS}), fields({"name": variable, "secret": secret})
    )
    return fields(
        image=fields(
            name=st.sampled_from(["taper/rollout:1", "host:5000/a/b@sha256:" + "0" * 64]),
            pullPolicy=st.sampled_from(["Always", "IfNotPresent", "Never"]),
            pullSecrets=st.lists(NAMES, max_size=2),
        ),
        env=st.lists(variables, max_size=3, unique_by=lambda entry: entry["name"]),
        submissionMode=st.sampled_from(["HTTPMode", "K8sJobMode"]),
        backoffLimit=st.integers(0, 100),
        activeDeadlineSeconds=st.integers(1, 2**31 - 1),
        ttlSecondsAfterFinished=st.integers(0, 2**31 - 1),
        suspend=st.booleans(),
        managedBy=st.sampled_from(["taper.dev/operator", "example.com/other"]),
    )

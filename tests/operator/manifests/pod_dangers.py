"""Everything that an object created for a job may contain; any other content is a danger.

Not what builders write, but what may be in a cluster in the operator's name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from taper_operator.kube.resource import KubeObject, Resource
from taper_operator.manifests.kinds import (
    CLAIMS,
    CONFIG_MAPS,
    NETWORK_POLICIES,
    POD_MONITORS,
    RAY_JOBS,
    SERVICE_ACCOUNTS,
)
from taper_operator.manifests.names import JobIdentity
from taper_operator.manifests.ray_job import ENTRYPOINT
from taper_operator.settings.pod_policy import PodPolicy

from ..job_objects import fields_of, pod_templates

FIELDS: dict[Resource, set[str]] = {
    CLAIMS: {"spec"},
    CONFIG_MAPS: {"immutable", "data"},
    NETWORK_POLICIES: {"spec"},
    POD_MONITORS: {"spec"},
    RAY_JOBS: {"spec"},
    SERVICE_ACCOUNTS: {"automountServiceAccountToken"},
}
RAY_JOB_FIELDS = {
    "entrypoint",
    "submissionMode",
    "suspend",
    "shutdownAfterJobFinishes",
    "ttlSecondsAfterFinished",
    "backoffLimit",
    "preRunningDeadlineSeconds",
    "rayClusterSpec",
    "submitterPodTemplate",
}
POD_FIELDS = {
    "serviceAccountName",
    "automountServiceAccountToken",
    "enableServiceLinks",
    "restartPolicy",
    "imagePullSecrets",
    "containers",
    "volumes",
    "securityContext",
    "terminationGracePeriodSeconds",
    # Where it runs, which is for its author to choose.
    "nodeSelector",
    "tolerations",
    "affinity",
    "priorityClassName",
    "runtimeClassName",
}
CONTAINER_FIELDS = {
    "name",
    "image",
    "imagePullPolicy",
    "env",
    "ports",
    "resources",
    "securityContext",
    "volumeMounts",
    "lifecycle",
}
MOUNT_FIELDS = {"name", "mountPath", "readOnly", "subPath"}
POD_SECURITY = {"runAsUser", "runAsGroup", "fsGroup", "supplementalGroups", "runAsNonRoot", "seccompProfile"}
ANNOTATIONS = re.compile(
    r"cluster-autoscaler\.kubernetes\.io/safe-to-evict|karpenter\.sh/do-not-disrupt"
    r"|kueue\.x-k8s\.io/podset-(required|preferred)-topology"
)
MOUNT = re.compile(
    r"/mnt(/[A-Za-z0-9][-A-Za-z0-9._]*)+|/etc/taper|/dev/shm|/var/lib/taper|/var/run/secrets/taper\.dev"
)
SUB_PATH = re.compile(r"[A-Za-z0-9][-A-Za-z0-9._]*(/[A-Za-z0-9][-A-Za-z0-9._]*)*")


def dangers(
    made: list[tuple[Resource, KubeObject]], identity: JobIdentity, policy: PodPolicy
) -> Iterator[str]:
    """What in these objects their job's author was not allowed; one line for each."""
    for kind, obj in made:
        metadata = obj["metadata"]
        if kind not in FIELDS:
            yield f"makes a {kind}"
            continue
        if metadata["namespace"] != identity.namespace:
            yield f"{kind}: is in {metadata['namespace']}"
        if any(owner["uid"] != identity.uid for owner in metadata.get("ownerReferences", [])):
            yield f"{kind}: is owned by another"
        yield from _unlisted(obj, {"apiVersion", "kind", "metadata"} | FIELDS[kind], str(kind))
        if kind == CONFIG_MAPS:
            yield from _unlisted(obj["data"], {"job.yaml", "report-ca.crt"}, "config.data")
        if kind == CLAIMS:
            yield from _unlisted(obj["spec"], {"accessModes", "resources", "storageClassName"}, "claim")
        if kind == RAY_JOBS:
            yield from _of_ray_job(obj, identity, policy)


def _of_ray_job(obj: KubeObject, identity: JobIdentity, policy: PodPolicy) -> Iterator[str]:
    yield from _unlisted(obj["spec"], RAY_JOB_FIELDS, "rayJob")
    if obj["spec"]["entrypoint"] != ENTRYPOINT:
        yield "rayJob.entrypoint is another"
    for template in pod_templates(obj):
        if "metadata" not in template:
            yield "a pod of unknown labels"
        else:
            yield from _of_pod(template, identity, policy)


def _of_pod(template: KubeObject, identity: JobIdentity, policy: PodPolicy) -> Iterator[str]:
    pod = template["spec"]
    yield from _of_metadata(template["metadata"], identity)
    yield from _unlisted(pod, POD_FIELDS, "pod")
    if pod["serviceAccountName"] != identity.shared_name or pod["automountServiceAccountToken"] is not False:
        yield "pod: another account, or its token"
    yield from _of_security(pod["securityContext"])
    yield from _secrets((each["name"] for each in pod.get("imagePullSecrets", [])), policy)
    yield from _of_scheduling(pod)
    for volume in pod.get("volumes", []):
        yield from _of_volume(volume, identity)
    if len(pod["containers"]) != 1:
        yield "pod has more containers than one"
    for container in pod["containers"]:
        yield from _of_container(container, policy)


def _of_metadata(metadata: dict[str, Any], identity: JobIdentity) -> Iterator[str]:
    yield from _unlisted(metadata, {"labels", "annotations"}, "metadata")
    annotations = metadata.get("annotations", {})
    yield from (f"annotation {key}" for key in annotations if not ANNOTATIONS.fullmatch(key))
    labels = metadata["labels"]
    ours = identity.labels | {"taper.dev/attempt": "1", "taper.dev/role": labels["taper.dev/role"]}
    for key, value in labels.items():
        if "/" in key and ours.get(key) != value:
            yield f"label {key}={value}"


def _of_security(context: dict[str, Any]) -> Iterator[str]:
    yield from _unlisted(context, POD_SECURITY, "pod.securityContext")
    if context["runAsNonRoot"] is not True or context["seccompProfile"] != {"type": "RuntimeDefault"}:
        yield "pod.securityContext is not restricted"
    ids = [context.get("runAsUser"), context.get("runAsGroup"), context.get("fsGroup")]
    if 0 in [*ids, *context.get("supplementalGroups", [])]:
        yield "pod.securityContext is root's"


def _of_scheduling(pod: dict[str, Any]) -> Iterator[str]:
    if str(pod.get("priorityClassName", "")).startswith("system-"):
        yield f"pod.priorityClassName {pod['priorityClassName']}"
    if any(not toleration.get("key") for toleration in pod.get("tolerations", [])):
        yield "pod tolerates every taint"
    terms = [path for path, _ in fields_of(pod.get("affinity", {}))]
    if any(path.endswith((".namespaces", ".namespaceSelector")) for path in terms):
        yield "pod.affinity names a namespace"


def _of_volume(volume: dict[str, Any], identity: JobIdentity) -> Iterator[str]:
    (kind,) = volume.keys() - {"name"}
    source = volume[kind]
    match kind:
        case "configMap":
            if source != {"name": identity.attempt_name(1)}:
                yield f"volume of another ConfigMap: {source}"
        case "emptyDir":
            yield from _unlisted(source, {"medium", "sizeLimit"}, "emptyDir")
        case "persistentVolumeClaim":
            yield from _unlisted(source, {"claimName", "readOnly"}, "persistentVolumeClaim")
        case "projected":
            token = source["sources"][0].get("serviceAccountToken", {})
            audience = f"taper.dev/rlhfjobs/{identity.uid}/attempts/1"
            if len(source["sources"]) != 1 or token.get("audience") != audience:
                yield f"volume with a token for another, or more: {source}"
        case _:
            yield f"volume of {kind}"


def _of_container(container: dict[str, Any], policy: PodPolicy) -> Iterator[str]:
    yield from _unlisted(container, CONTAINER_FIELDS, "container")
    expected: dict[str, Any] = {
        "allowPrivilegeEscalation": False,
        "privileged": False,
        "runAsNonRoot": True,
        "capabilities": {"drop": ["ALL"]},
    }
    locking = expected | {"capabilities": {"drop": ["ALL"], "add": ["IPC_LOCK"]}}
    context = container.get("securityContext")
    if context not in ([expected, locking] if policy.allows_ipc_lock else [expected]):
        yield f"container.securityContext {context}"
    for variable in container.get("env", []):
        yield from _unlisted(variable, {"name", "value", "valueFrom"}, "env")
        if "valueFrom" in variable:
            yield from _unlisted(variable["valueFrom"], {"secretKeyRef"}, "env.valueFrom")
            yield from _secrets([variable["valueFrom"]["secretKeyRef"]["name"]], policy)
        elif re.search(r"(?<!\$)(\$\$)*\$\(", variable["value"]):
            yield f"env {variable['name']} refers to another variable"
    for port in container.get("ports", []):
        yield from _unlisted(port, {"name", "containerPort"}, "port")
    for mount in container.get("volumeMounts", []):
        yield from _unlisted(mount, MOUNT_FIELDS, "mount")
        if not MOUNT.fullmatch(mount["mountPath"]) or not SUB_PATH.fullmatch(mount.get("subPath", "a")):
            yield f"mount at {mount['mountPath']} of {mount.get('subPath')}"
    yield from _of_lifecycle(container.get("lifecycle"))


def _of_lifecycle(lifecycle: dict[str, Any] | None) -> Iterator[str]:
    if lifecycle is None:
        return
    *command, grace = lifecycle.get("preStop", {}).get("exec", {}).get("command", [""])
    is_ours = command == ["ray", "stop"] and re.fullmatch(r"--grace-period=\d+", grace)
    if not is_ours or len(lifecycle) > 1:
        yield f"lifecycle {lifecycle}"


def _unlisted(obj: dict[str, Any], listed: set[str], where: str) -> Iterator[str]:
    yield from (f"{where}.{name}" for name in obj if name not in listed)


def _secrets(names: Any, policy: PodPolicy) -> Iterator[str]:
    for name in names:
        if "*" not in policy.allowed_secrets and name not in policy.allowed_secrets:
            yield f"secret {name}"

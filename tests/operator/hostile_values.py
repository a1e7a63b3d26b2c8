"""What the author of a job might try, to be given more than the operator's settings allow.

Keys that are put into every mapping of a job, and values that take the place of every one of its values.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from typing import Any

from ..api.job_specs import Fields

HOST = {"hostPath": {"path": "/", "type": "Directory"}}
SECRET = "others-secret"
ACCOUNT = "cluster-admin"
PRIVILEGED = {
    "privileged": True,
    "allowPrivilegeEscalation": True,
    "runAsUser": 0,
    "runAsNonRoot": False,
    "procMount": "Unmasked",
    "capabilities": {"add": ["SYS_ADMIN", "IPC_LOCK"]},
    "seccompProfile": {"type": "Unconfined"},
}
CONTAINER = {"name": "evil", "image": "evil", "command": ["sh"], "securityContext": PRIVILEGED}
TOKEN = {"serviceAccountToken": {"path": "token", "audience": "https://kubernetes.default.svc"}}
VOLUMES = [
    {"name": "a", **HOST},
    {"name": "b", "secret": {"secretName": SECRET}},
    {"name": "c", "projected": {"sources": [TOKEN, {"secret": {"name": SECRET}}]}},
    {"name": "d", "csi": {"driver": "secrets-store.csi.k8s.io", "volumeAttributes": {"a": "b"}}},
    {"name": "e", "configMap": {"name": "others"}},
    {"name": "f", "downwardAPI": {"items": []}},
    {"name": "g", "nfs": {"server": "a", "path": "/"}},
]
# As a pod, a container, a volume or an object would have them.
KEYS: Fields = {
    "hostNetwork": True,
    "hostPID": True,
    "hostIPC": True,
    "hostUsers": True,
    "hostAliases": [{"ip": "1.2.3.4", "hostnames": ["kubernetes.default.svc"]}],
    "hostPath": HOST["hostPath"],
    "hostPort": 22,
    "privileged": True,
    "securityContext": PRIVILEGED,
    "serviceAccountName": ACCOUNT,
    "serviceAccount": ACCOUNT,
    "automountServiceAccountToken": True,
    "volumes": VOLUMES,
    "volumeMounts": [{"name": "a", "mountPath": "/host"}],
    "volumeDevices": [{"name": "a", "devicePath": "/dev/sda"}],
    "containers": [CONTAINER],
    "initContainers": [CONTAINER],
    "ephemeralContainers": [CONTAINER],
    "envFrom": [{"secretRef": {"name": SECRET}}, {"configMapRef": {"name": "others"}}],
    "valueFrom": {"secretKeyRef": {"name": SECRET, "key": "a"}},
    "configMapKeyRef": {"name": "others", "key": "a"},
    "imagePullSecrets": [{"name": SECRET}],
    "secretName": SECRET,
    "csi": VOLUMES[3]["csi"],
    "projected": VOLUMES[2]["projected"],
    "ephemeral": {"volumeClaimTemplate": {"spec": {}}},
    "command": ["sh", "-c", "true"],
    "args": ["evil"],
    "lifecycle": {"postStart": {"exec": {"command": ["evil"]}}},
    "nodeName": "control-plane",
    "schedulerName": "evil",
    "resourceClaims": [{"name": "gpu", "resourceClaimName": "others"}],
    "namespace": "kube-system",
    "namespaces": ["kube-system"],
    "namespaceSelector": {},
    "ownerReferences": [{"kind": "Namespace", "name": "default", "uid": "1"}],
    "template": {"spec": {"hostNetwork": True}},
    "podTemplate": {"spec": {"hostNetwork": True}},
    "entrypoint": "sh -c evil",
    "runtimeEnvYAML": "env_vars: {A: b}",
    "submitterPodTemplate": {"spec": {"containers": [CONTAINER]}},
    "rayStartParams": {"block": "true; evil"},
    "uid": 0,
    "level": "s0:c1",
    "windowsOptions": {"hostProcess": True},
    "$patch": "replace",
    "<<": {"hostNetwork": True},
}
# Of which the strings mean something where they get to the right place, and the rest must not get anywhere.
VALUES: tuple[Any, ...] = (
    HOST,
    {"securityContext": PRIVILEGED},
    {"valueFrom": {"secretKeyRef": {"name": SECRET, "key": "a"}}},
    {"serviceAccountName": ACCOUNT},
    CONTAINER,
    VOLUMES,
    [HOST],
    [CONTAINER],
    [TOKEN],
    [SECRET],
    [{"name": SECRET}],
    {"name": SECRET, "key": "a"},
    {"annotations": {"container.apparmor.security.beta.kubernetes.io/ray-head": "unconfined"}},
    {"labels": {"taper.dev/job": "others", "kueue.x-k8s.io/queue-name": "others"}},
    {"evil.example/inject": "true"},
    SECRET,
    ACCOUNT,
    "/",
    "/etc/taper",
    "/var/run/secrets/kubernetes.io/serviceaccount",
    "/mnt/../var/run",
    "../..",
    "kube-system",
    "system-node-critical",
    "$(TAPER_REPORT_TOKEN)",
    "a; evil",
    "a\n- name: evil",
    "{{ .Values.secret }}",
    "true",
    True,
    0,
    -1,
)


Path = tuple[str | int, ...]


def with_every_key(job: Fields, path: Path) -> Fields:
    """The job with all hostile keys in one of its mappings."""
    changed = copy.deepcopy(job)
    at(changed, path).update(copy.deepcopy(KEYS))
    return changed


def with_value_everywhere(job: Fields, paths: Iterable[Path], value: Any) -> Fields:
    """The job with a hostile value in place of many; none of the paths lies below another."""
    changed = copy.deepcopy(job)
    for path in paths:
        at(changed, path[:-1])[path[-1]] = copy.deepcopy(value)
    return changed


def paths_of(value: Any, path: Path) -> Iterator[Path]:
    """Paths of a value and of all in it."""
    yield path
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from paths_of(inner, (*path, name))
    if isinstance(value, list):
        for index, inner in enumerate(value):
            yield from paths_of(inner, (*path, index))


def at(job: Any, path: Path) -> Any:
    """What is at a path."""
    for step in path:
        job = job[step]
    return job


def written(path: Path) -> str:
    """A path as problems write it: `spec.env[0].name`."""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return text.removeprefix(".")

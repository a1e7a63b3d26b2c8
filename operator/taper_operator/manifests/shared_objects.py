"""The objects that all attempts of a job share: its account, who may connect, what is scraped, the claim.

Ray runs whatever its Jobs API receives, so the NetworkPolicy lets nobody connect to the job's pods but these
pods, KubeRay, which submits the job, and Prometheus; the API also requires a token. Connections from the
pods are left to the cluster's own policies.
"""

from __future__ import annotations

from taper_api import RLHFJob
from taper_operator.kube.resource import KubeObject
from taper_operator.manifests.attempt_job import metrics_port
from taper_operator.manifests.kinds import CLAIMS, NETWORK_POLICIES, POD_MONITORS, SERVICE_ACCOUNTS
from taper_operator.manifests.names import (
    ATTEMPT_LABEL,
    DASHBOARD_PORT,
    JOB_LABEL,
    JOB_UID_LABEL,
    METRICS_PORT_NAME,
    RAY_METRICS_PORT,
    RAY_METRICS_PORT_NAME,
    JobIdentity,
)
from taper_operator.settings.pod_policy import PodPolicy

# Kubernetes itself labels every namespace with its name.
_NAMESPACE_LABEL = "kubernetes.io/metadata.name"


def service_account(identity: JobIdentity) -> KubeObject:
    """The subject of the token with which an attempt reports. It has no rights.

    No pod gets a token for the API server.
    """
    metadata = identity.metadata(identity.shared_name)
    return SERVICE_ACCOUNTS.manifest(metadata, automountServiceAccountToken=False)


def network_policy(job: RLHFJob, identity: JobIdentity, policy: PodPolicy) -> KubeObject:
    """One for all pods of the job, of every attempt."""
    spec = {
        "podSelector": {"matchLabels": identity.selector},
        "policyTypes": ["Ingress"],
        "ingress": [
            {"from": [{"podSelector": {"matchLabels": identity.selector}}]},
            _from_namespace(policy.kuberay_namespace, DASHBOARD_PORT),
            _from_namespace(policy.prometheus_namespace, RAY_METRICS_PORT, metrics_port(job)),
        ],
    }
    return NETWORK_POLICIES.manifest(identity.metadata(identity.shared_name), spec=spec)


def _from_namespace(namespace: str, *ports: int) -> KubeObject:
    return {
        "from": [{"namespaceSelector": {"matchLabels": {_NAMESPACE_LABEL: namespace}}}],
        "ports": [{"protocol": "TCP", "port": port} for port in ports],
    }


def pod_monitor(identity: JobIdentity) -> KubeObject:
    """Scrapes the replicas' metrics and Ray's own, with job and attempt as labels."""
    spec = {
        "selector": {"matchLabels": identity.selector},
        "podTargetLabels": [JOB_LABEL, ATTEMPT_LABEL],
        "podMetricsEndpoints": [
            {"port": METRICS_PORT_NAME, "interval": "15s"},
            {"port": RAY_METRICS_PORT_NAME, "interval": "30s"},
        ],
    }
    return POD_MONITORS.manifest(identity.metadata(identity.shared_name), spec=spec)


def checkpoints_claim(job: RLHFJob, identity: JobIdentity) -> KubeObject | None:
    """The claim for checkpoints, if the job requests a size.

    It has no owner: checkpoints outlive the job, and a new job of the same name finds them.
    """
    volume = job.spec.volumes.checkpoints
    if volume is None or volume.size is None:
        return None
    spec: KubeObject = {
        "accessModes": [volume.access_mode],
        "resources": {"requests": {"storage": volume.size}},
    }
    if volume.storage_class_name is not None:
        spec["storageClassName"] = volume.storage_class_name
    labels = {name: value for name, value in identity.labels.items() if name != JOB_UID_LABEL}
    metadata = {"name": identity.claim_name, "namespace": identity.namespace, "labels": labels}
    return CLAIMS.manifest(metadata, spec=spec)

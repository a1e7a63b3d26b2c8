"""Who may connect to a job's pods: the pods themselves, KubeRay to submit it, Prometheus for metrics.

Ray runs whatever its Jobs API receives, so all others are kept out; the API also requires a token.
Connections from the pods are left to the cluster's own policies.
"""

from __future__ import annotations

from taper_api import RLHFJob
from taper_operator.kube.resource import KubeObject
from taper_operator.manifests.attempt_job import metrics_port
from taper_operator.manifests.kinds import NETWORK_POLICIES
from taper_operator.manifests.names import DASHBOARD_PORT, RAY_METRICS_PORT, JobIdentity
from taper_operator.settings.pod_policy import PodPolicy

# Kubernetes itself labels every namespace with its name.
_NAMESPACE_LABEL = "kubernetes.io/metadata.name"


def network_policy(job: RLHFJob, identity: JobIdentity, policy: PodPolicy) -> KubeObject:
    """One for all pods of the job, of every attempt."""
    return {
        "apiVersion": NETWORK_POLICIES.api_version,
        "kind": NETWORK_POLICIES.kind,
        "metadata": identity.metadata(identity.shared_name),
        "spec": {
            "podSelector": {"matchLabels": identity.selector},
            "policyTypes": ["Ingress"],
            "ingress": [
                {"from": [{"podSelector": {"matchLabels": identity.selector}}]},
                _from_namespace(policy.kuberay_namespace, DASHBOARD_PORT),
                _from_namespace(policy.prometheus_namespace, RAY_METRICS_PORT, metrics_port(job)),
            ],
        },
    }


def _from_namespace(namespace: str, *ports: int) -> KubeObject:
    return {
        "from": [{"namespaceSelector": {"matchLabels": {_NAMESPACE_LABEL: namespace}}}],
        "ports": [{"protocol": "TCP", "port": port} for port in ports],
    }

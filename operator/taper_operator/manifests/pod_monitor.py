"""The PodMonitor of a job, if the cluster has the Prometheus operator."""

from __future__ import annotations

from taper_operator.kube.resource import KubeObject
from taper_operator.manifests.kinds import POD_MONITORS
from taper_operator.manifests.names import ATTEMPT_LABEL, JOB_LABEL, JobIdentity

METRICS_PORT_NAME = "taper-metrics"
# KubeRay's own name: with another one the head's Service would list the port twice and be rejected.
RAY_METRICS_PORT_NAME = "metrics"


def pod_monitor(identity: JobIdentity) -> KubeObject:
    """Scrapes the replicas' metrics and Ray's own, with job and attempt as labels."""
    return {
        "apiVersion": POD_MONITORS.api_version,
        "kind": POD_MONITORS.kind,
        "metadata": identity.metadata(identity.shared_name),
        "spec": {
            "selector": {"matchLabels": identity.selector},
            "podTargetLabels": [JOB_LABEL, ATTEMPT_LABEL],
            "podMetricsEndpoints": [
                {"port": METRICS_PORT_NAME, "interval": "15s"},
                {"port": RAY_METRICS_PORT_NAME, "interval": "30s"},
            ],
        },
    }

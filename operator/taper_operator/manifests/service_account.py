"""The ServiceAccount of a job's pods. It has no rights, and no pod gets a token for the API server."""

from __future__ import annotations

from taper_operator.kube.resource import KubeObject
from taper_operator.manifests.kinds import SERVICE_ACCOUNTS
from taper_operator.manifests.names import JobIdentity


def service_account(identity: JobIdentity) -> KubeObject:
    """The subject of the token with which an attempt reports."""
    return {
        "apiVersion": SERVICE_ACCOUNTS.api_version,
        "kind": SERVICE_ACCOUNTS.kind,
        "metadata": identity.metadata(identity.shared_name),
        "automountServiceAccountToken": False,
    }

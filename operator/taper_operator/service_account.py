"""The ServiceAccount of a job's pods. It may do nothing, and no pod gets a token for the API server."""

from __future__ import annotations

from taper_operator.kinds import SERVICE_ACCOUNTS
from taper_operator.object_names import JobIdentity
from taper_operator.resource import KubeObject


def service_account(identity: JobIdentity) -> KubeObject:
    """It is what the token of an attempt's reports is issued for."""
    return {
        "apiVersion": SERVICE_ACCOUNTS.api_version,
        "kind": SERVICE_ACCOUNTS.kind,
        "metadata": identity.metadata(identity.shared_name),
        "automountServiceAccountToken": False,
    }

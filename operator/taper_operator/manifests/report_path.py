"""Where a job reports to: the path says which job, the token proves it."""

from __future__ import annotations

import re

from taper_operator.kube.resource import ObjectKey

_NAME = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
_PATH = re.compile(rf"/v1/namespaces/(?P<namespace>{_NAME})/rlhfjobs/(?P<name>{_NAME})/snapshots")


def report_path(namespace: str, name: str) -> str:
    """Where the snapshots of a job are posted to."""
    return f"/v1/namespaces/{namespace}/rlhfjobs/{name}/snapshots"


def job_of_path(path: str) -> ObjectKey | None:
    """The job whose path it is; None for any other."""
    found = _PATH.fullmatch(path)
    return None if found is None else ObjectKey(found["namespace"], found["name"])

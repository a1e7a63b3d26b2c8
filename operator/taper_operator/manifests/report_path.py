"""The URL path of a job's reports: it names the job; the token authenticates it."""

from __future__ import annotations

import re

from taper_operator.kube.resource import ObjectKey

_NAME = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
_PATH = re.compile(rf"/v1/namespaces/(?P<namespace>{_NAME})/rlhfjobs/(?P<name>{_NAME})/snapshots")


def report_path(namespace: str, name: str) -> str:
    """The path that a job posts its reports to."""
    return f"/v1/namespaces/{namespace}/rlhfjobs/{name}/snapshots"


def job_of_path(path: str) -> ObjectKey | None:
    """The job of a report path; None for any other path."""
    found = _PATH.fullmatch(path)
    return None if found is None else ObjectKey(found["namespace"], found["name"])

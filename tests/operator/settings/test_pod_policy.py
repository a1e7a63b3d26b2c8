"""What the operator's settings allow."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given

from taper_operator.observation.observation import Observation
from taper_operator.reconcile.plan import plan
from taper_operator.settings.pod_policy import PodPolicy

from ...api.job_specs import Fields, valid_jobs
from ..job_objects import NOW, POLICY, as_served, parsed, resource, secrets_of


@given(valid_jobs())
def test_only_listed_secrets_are_allowed(content: Fields) -> None:
    job, _ = parsed(as_served(content))
    secrets = secrets_of(job)
    listed = replace(POLICY, allowed_secrets=frozenset(secrets))
    assert list(listed.refusals(job.spec)) == []
    for secret in secrets:
        others = replace(POLICY, allowed_secrets=frozenset(secrets - {secret}))
        assert any(secret in problem.message for problem in others.refusals(job.spec))


def test_memory_is_locked_only_where_that_is_allowed() -> None:
    job, _ = parsed(resource({"spec.nodePools": {"gpu": {"rdma": {"resource": "rdma/hca"}}}}))
    (problem,) = replace(POLICY, allows_ipc_lock=False).refusals(job.spec)
    assert problem.path == "spec.nodePools.gpu.rdma.ipcLock"


def test_a_job_needs_an_image_from_the_settings_or_its_own() -> None:
    job, _ = parsed(resource())
    (problem,) = PodPolicy().refusals(job.spec)
    assert problem.path == "spec.image.name"


def test_nothing_is_created_for_a_refused_job() -> None:
    obj = resource({"spec.image": {"pullSecrets": ["others"]}})
    refused = plan(Observation(resource=obj), replace(POLICY, allowed_secrets=frozenset({"mine"})), NOW)
    assert refused.actions == ()
    assert refused.status is not None
    (validated,) = (c for c in refused.status.conditions if c.type == "Validated")
    assert (validated.status, validated.reason) == ("False", "NotAllowed")
    assert "spec.image.pullSecrets[0]" in validated.message
    assert refused.status.attempt == 0

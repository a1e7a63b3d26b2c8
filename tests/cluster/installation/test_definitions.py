"""The CRDs of `manifests/`, as a real API server takes them."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml

from taper_api.schema.crd import rlhfjob_crd
from taper_operator.kube.errors import Invalid
from taper_operator.kube.resource import ObjectKey, Resource
from taper_operator.manifests.kinds import DEFINITIONS, RLHF_JOBS

from ...api.rule_violations import FULL, broken
from ...api.test_tpprofile import WRONG, resource
from ..conftest import CRDS
from ..control_plane.cluster import Cluster, condition
from ..control_plane.kubectl import Kubectl

FILES = sorted(CRDS.glob("*.yaml"))
TP_PROFILES = Resource(
    group=RLHF_JOBS.group, version=RLHF_JOBS.version, plural="tpprofiles", kind="TPProfile"
)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_definition_is_taken_as_it_is(api: Cluster, file: Any) -> None:
    """The cost of its rules has a bound, its schema is structural, its names are free."""
    applied = yaml.safe_load(file.read_text())
    kept = api.api.get(DEFINITIONS, ObjectKey("", applied["metadata"]["name"]))
    assert condition(kept, "Established") == "True"
    assert condition(kept, "NamesAccepted") == "True"
    assert condition(kept, "NonStructuralSchema") == ""
    # Applying it again changes nothing.
    again = api.api.apply(DEFINITIONS, applied)
    assert again["metadata"]["resourceVersion"] == kept["metadata"]["resourceVersion"]


def test_the_check_of_costs_fails_on_an_expensive_rule(api: Cluster) -> None:
    definition = yaml.safe_load(FILES[0].read_text())
    spec = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    rule = {"rule": "self.data.train.all(a, self.data.train.all(b, self.data.train.all(c, a + b + c != '')))"}
    spec["x-kubernetes-validations"] = [rule]
    with pytest.raises(Invalid, match="cost"):
        api.dry_run.apply(DEFINITIONS, definition)


def test_a_job_is_kept_with_the_parsers_defaults(api: Cluster) -> None:
    kept = api.dry_run.create(RLHF_JOBS, broken({"metadata.namespace": "default"}))
    assert kept["spec"]["backoffLimit"] == 3
    assert kept["spec"]["nodePools"]["head"]["cpu"] == "4"
    assert "status" not in kept
    assert json.loads(json.dumps(FULL))["spec"].items() <= {**kept["spec"], **FULL["spec"]}.items()


def profile(**changes: Any) -> dict[str, Any]:
    """A TPProfile; a field that is changed to None is left out."""
    made = resource(**changes)
    made["metadata"]["namespace"] = "default"
    made["spec"] = {name: value for name, value in made["spec"].items() if value is not None}
    return made


def test_a_valid_profile_is_accepted(api: Cluster) -> None:
    assert api.dry_run.create(TP_PROFILES, profile())["spec"]["cells"] == profile()["spec"]["cells"]


@pytest.mark.parametrize(("changes", "path"), WRONG)
def test_an_invalid_profile_is_rejected_by_the_same_field(
    api: Cluster, changes: dict[str, Any], path: str
) -> None:
    with pytest.raises(Invalid, match=re.escape(path)):
        api.dry_run.create(TP_PROFILES, profile(**changes))


def test_kubectl_shows_jobs_by_their_short_name(api: Cluster) -> None:
    kubectl = Kubectl(api.plane, api.new_namespace())
    kept = api.api.create(RLHF_JOBS, broken({"metadata.namespace": kubectl.namespace}))
    reported = {"attempt": 1, "sequence": 1, "time": "2026-11-21T12:00:00Z"}
    status = {"phase": "Running", "attempt": 1, "progress": reported | {"step": 2, "steps": 3}}
    status["rollout"] = reported | {"switches": 4}
    api.api.replace(RLHF_JOBS, kept | {"status": status}, subresource="status")
    (short,) = rlhfjob_crd()["spec"]["names"]["shortNames"]
    header, row = kubectl("get", short).splitlines()
    assert header.split() == ["NAME", "PHASE", "STEP", "STEPS", "ATTEMPT", "AGE"]
    assert row.split()[:5] == [kept["metadata"]["name"], "Running", "2", "3", "1"]
    header, row = kubectl("get", short, "--output=wide").splitlines()
    assert row.find("some/model") == header.find("MODEL")

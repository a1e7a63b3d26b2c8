"""The CRDs of `manifests/`, as a real API server takes them."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from taper_operator.api_error import Invalid
from taper_operator.kinds import DEFINITIONS, RLHF_JOBS
from taper_operator.resource import ObjectKey

from ..api.rule_violations import FULL, broken
from .cluster import Cluster, condition
from .conftest import CRDS

FILES = sorted(CRDS.glob("*.yaml"))


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


def test_the_check_of_costs_bites(api: Cluster) -> None:
    definition = yaml.safe_load(FILES[0].read_text())
    spec = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    rule = {"rule": "self.data.train.all(a, self.data.train.all(b, self.data.train.all(c, a + b + c != '')))"}
    spec["x-kubernetes-validations"] = [rule]
    with pytest.raises(Invalid, match="cost"):
        api.api.apply(DEFINITIONS, definition, dry_run=True)


def test_a_job_is_kept_with_the_parsers_defaults(api: Cluster) -> None:
    kept = api.api.create(RLHF_JOBS, broken({"metadata.namespace": "default"}), dry_run=True)
    assert kept["spec"]["backoffLimit"] == 3
    assert kept["spec"]["nodePools"]["head"]["cpu"] == "4"
    assert "status" not in kept
    assert json.loads(json.dumps(FULL))["spec"].items() <= {**kept["spec"], **FULL["spec"]}.items()

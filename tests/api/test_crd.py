"""The CRDs: structural, bounded, and in agreement with the parser."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given

from taper_api import JobError, parse_job
from taper_api.base.yaml12 import Yaml12Loader
from taper_api.job.spec import RLHFJobSpec
from taper_api.profile.tpprofile import PROFILE_RULES
from taper_api.rules.field_rules import FIELD_RULES
from taper_api.rules.immutability import CHANGES_WHILE_SUSPENDED, IMMUTABILITY_RULES, NEVER_CHANGES
from taper_api.rules.rlhfjob_rules import RULES, cel_rules
from taper_api.rules.rollout_rules import ROLLOUT_RULES
from taper_api.rules.rule import CelRule, Rule, escaped
from taper_api.rules.training_rules import BATCH
from taper_api.rules.volume_rules import MOUNTS
from taper_api.schema.crd import crd_files, rlhfjob_crd, tpprofile_crd

from ..examples import examples
from .admission import Schema, admitted, errors
from .job_mutations import MutatedJob, broken_fields
from .job_specs import valid_jobs
from .rule_violations import CHANGES, FULL, VIOLATIONS, broken

ROOT = Path(__file__).parents[2]
CRDS = {"RLHFJob": rlhfjob_crd(), "TPProfile": tpprofile_crd()}
SCHEMAS = {kind: crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"] for kind, crd in CRDS.items()}
SAMPLES = sorted([*ROOT.glob("rollout/**/sample/*.yaml"), *ROOT.glob("manifests/samples/*.yaml")])
JOB = SCHEMAS["RLHFJob"]
RULES_OF_JOBS = cel_rules()
RULES_OF_PROFILES = [cel for rule in PROFILE_RULES for cel in rule.cel]


def nodes(schema: Schema, path: str) -> Iterator[tuple[str, Schema]]:
    """Every schema within a schema, with its path."""
    yield path, schema
    for name, field in schema.get("properties", {}).items():
        yield from nodes(field, f"{path}.{name}")
    for keyword in ("items", "additionalProperties"):
        if keyword in schema:
            yield from nodes(schema[keyword], f"{path}[]")


NODES = [node for kind, schema in SCHEMAS.items() for node in nodes(schema, kind)]


def test_each_schema_is_structural() -> None:
    forbidden = {"$ref", "$defs", "anyOf", "oneOf", "allOf", "not", "const", "title", "patternProperties"}
    assert [path for path, node in NODES if forbidden & set(node)] == []
    assert [path for path, node in NODES if ("type" in node) == ("x-kubernetes-int-or-string" in node)] == []


def test_every_value_has_a_bound() -> None:
    bounds = {"string": {"maxLength", "enum"}, "array": {"maxItems"}, "integer": {"maximum", "enum"}}
    loose = [path for path, node in NODES if not bounds.get(node.get("type", ""), set(node)) & set(node)]
    maps = [path for path, node in NODES if "additionalProperties" in node and "maxProperties" not in node]
    assert (loose, maps) == ([], [])
    quantities = [node for _, node in NODES if "x-kubernetes-int-or-string" in node]
    assert all("maxLength" in node for node in quantities)


def test_every_field_is_described_and_only_raw_settings_are_free() -> None:
    fields = [(path, node) for path, node in NODES if not path.endswith(("[]", ".metadata"))]
    assert [path for path, node in fields if not node.get("description")] == []
    free = {path for path, node in NODES if node.get("x-kubernetes-preserve-unknown-fields")}
    assert {path for path in free if not path.startswith("RLHFJob.spec.verl.")} == {
        "RLHFJob.spec.reward.settings",
        "RLHFJob.spec.verl",
    }


def test_each_default_is_valid() -> None:
    wrong = {path: errors(node["default"], node) for path, node in NODES if "default" in node}
    assert {path: found for path, found in wrong.items() if found} == {}


def test_each_default_is_complete() -> None:
    """A server checks them by the rules before it fills in the defaults of their fields."""
    short = [
        path
        for path, node in NODES
        if "default" in node and admitted(node["default"], node) != node["default"]
    ]
    assert short == []


@pytest.mark.parametrize("kind", CRDS)
def test_names_and_printed_columns(kind: str) -> None:
    spec = CRDS[kind]["spec"]
    assert spec["names"]["shortNames"]
    (version,) = spec["versions"]
    assert version["subresources"] == {"status": {}}
    paths = {path.removeprefix(kind) for path, _ in NODES if path.startswith(kind)}
    columns = {column["jsonPath"] for column in version["additionalPrinterColumns"]}
    assert columns - paths == {".metadata.creationTimestamp"}


def test_the_files_are_those_of_the_models() -> None:
    for name, content in crd_files().items():
        assert yaml.safe_load(content) == next(
            crd for crd in CRDS.values() if crd["spec"]["names"]["plural"] in name
        )


# Valid jobs.


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.name)
def test_each_sample_is_valid(sample: Path) -> None:
    for document in yaml.load_all(sample.read_text(), Loader=Yaml12Loader):
        if document.get("kind") in SCHEMAS:
            assert errors(document, SCHEMAS[document["kind"]]) == []


@given(valid_jobs())
def test_schema_and_parser_accept_valid_jobs(job: dict[str, Any]) -> None:
    assert errors(job, JOB) == []
    parsed = parse_job(json.dumps(job), "job.yaml")
    # The server's defaults are the parser's own.
    assert parse_job(json.dumps(admitted(job, JOB)), "job.yaml") == parsed


def test_the_unbroken_job_is_valid() -> None:
    assert errors(FULL, JOB) == []
    parse_job(json.dumps(FULL), "job.yaml")


# Jobs with one error.


@examples(150)
@given(broken_fields(JOB))
def test_schema_and_parser_refuse_one_wrong_field(mutated: MutatedJob) -> None:
    with pytest.raises(JobError):
        parse_job(json.dumps(mutated.job), "job.yaml")
    # Keys of maps are checked by CEL, which `errors` does not evaluate.
    assert errors(mutated.job, JOB) or mutated.what == "a key that does not fit"


def rule_of(cel: CelRule) -> Rule[Any] | None:
    """The rule that a CEL rule belongs to; None for one that repeats what a field's type says."""
    return next((rule for rule in RULES if cel in rule.cel), None)


@pytest.mark.parametrize("start", VIOLATIONS)
def test_a_job_that_breaks_a_rule_in_cel_breaks_its_check_in_python(start: str) -> None:
    (cel,) = [cel for cel in RULES_OF_JOBS if cel.message.startswith(start)]
    rule = rule_of(cel)
    job = broken(VIOLATIONS[start])
    with pytest.raises(JobError) as caught:
        parse_job(json.dumps(job), "job.yaml")
    (problem, *others) = caught.value.problems
    assert not others or rule is MOUNTS  # which names both volumes of a pair
    blamed = f"{cel.at}{cel.field_path}".removesuffix("[]").replace("[]", "[0]") or "metadata.name"
    if rule not in (BATCH, MOUNTS):
        assert problem.path.startswith(blamed)
    assert problem.remedy
    assert not errors(job, JOB) or cel in FIELD_RULES
    if rule is not None:
        spec = RLHFJobSpec.model_validate(job["spec"])
        assert list(rule.check(spec.rollout if rule in ROLLOUT_RULES else spec)) == [problem, *others]


# The table of rules.


@pytest.mark.parametrize("rule", [*RULES_OF_JOBS, *RULES_OF_PROFILES], ids=lambda rule: rule.message[:60])
def test_each_rule_names_a_path_and_a_remedy(rule: CelRule) -> None:
    place, colon, remedy = rule.message.partition(": ")
    assert colon and remedy
    assert place.startswith(("spec", "metadata"))
    assert "\n" not in rule.message + rule.rule


@pytest.mark.parametrize("rule", [*RULES_OF_JOBS, *RULES_OF_PROFILES], ids=lambda rule: rule.message[:60])
def test_the_cost_of_each_rule_has_a_bound(rule: CelRule) -> None:
    """The result of `string()` has no bound that a server knows: it would refuse the whole definition."""
    assert not re.search(r"\bstring\(|\.map\(|\.split\(|\.join\(", rule.rule)


@pytest.mark.parametrize("rule", [*RULES_OF_JOBS, *RULES_OF_PROFILES], ids=lambda rule: rule.message[:60])
def test_each_rule_names_a_field_of_the_schema(rule: CelRule) -> None:
    kind = "RLHFJob" if rule in RULES_OF_JOBS else "TPProfile"
    assert f"{kind}{'.' if rule.at else ''}{rule.at}{rule.field_path}" in {path for path, _ in NODES}


def test_each_rule_in_cel_has_a_job_that_breaks_it() -> None:
    broken_by_none = [
        cel.message
        for cel in RULES_OF_JOBS
        if cel not in IMMUTABILITY_RULES and not cel.message.startswith(tuple(VIOLATIONS))
    ]
    assert broken_by_none == []


def test_each_rule_has_python_and_cel() -> None:
    assert [rule.text for rule in (*RULES, *PROFILE_RULES) if not rule.cel] == []
    belonging = {cel.message for rule in RULES for cel in rule.cel}
    assert belonging == {cel.message for cel in RULES_OF_JOBS} - {
        cel.message for cel in (*FIELD_RULES, *IMMUTABILITY_RULES)
    }


def test_names_are_escaped_as_in_cel() -> None:
    assert escaped("actor_rollout_ref.model.path") == "actor_rollout_ref__dot__model__dot__path"
    with pytest.raises(ValueError, match="escape"):
        escaped("a__b")


# What may change; `tests/cluster/installation/test_parity.py` sends such changes to a server.


def test_all_other_fields_may_change_at_any_time() -> None:
    assert {*NEVER_CHANGES, *CHANGES_WHILE_SUSPENDED} == set(CHANGES)
    free = set(JOB["properties"]["spec"]["properties"]) - set(CHANGES)
    assert free == {"suspend", "backoffLimit", "activeDeadlineSeconds", "ttlSecondsAfterFinished"}

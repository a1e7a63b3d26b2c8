"""The CRDs within the chart."""

from __future__ import annotations

import yaml

from taper_api.schema.crd import crd_files

from .chart import of_kind, text


def test_the_crds_are_the_generated_ones_and_are_kept() -> None:
    generated = {crd["metadata"]["name"]: crd for crd in map(yaml.safe_load, crd_files().values())}
    found = yaml.load_all(text(), yaml.CSafeLoader)
    made = of_kind("CustomResourceDefinition", [obj for obj in found if obj is not None])
    assert len(made) == len(generated) == 2
    for crd in made:
        assert crd["metadata"].pop("annotations") == {"helm.sh/resource-policy": "keep"}
        assert crd == generated[crd["metadata"]["name"]]


def test_the_crds_can_be_removed_with_the_release_or_left_out() -> None:
    assert "resource-policy" not in text({"crds": {"keep": False}})
    assert "CustomResourceDefinition" not in text({"crds": {"install": False}})

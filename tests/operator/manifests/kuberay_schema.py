"""KubeRay's own definition of RayJob, where it is here."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).parents[3]
PLACES = [
    Path(os.environ.get("TAPER_KUBERAY_CRDS", REPOSITORY / "no-such-place")),
    REPOSITORY / "shared" / "data" / "kuberay",
    REPOSITORY.parent / "shared" / "data" / "kuberay",
]
WHY_NOT = "KubeRay's CRDs are not here: set TAPER_KUBERAY_CRDS to the folder that holds them"


@functools.cache
def rayjob_definition() -> Any:
    """The CRD, None where it is not here."""
    for place in PLACES:
        file = place / "ray.io_rayjobs.yaml"
        if file.is_file():
            return yaml.load(file.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return None


def rayjob_schema() -> Any:
    """Its schema, None where it is not here."""
    definition = rayjob_definition()
    if definition is None:
        return None
    (version,) = (each for each in definition["spec"]["versions"] if each["name"] == "v1")
    return version["schema"]["openAPIV3Schema"]

"""`manifests/`, applied by kubectl as its README says: first for one namespace, then for all."""

from __future__ import annotations

from pathlib import Path

from taper_operator.manifests.kinds import RLHF_JOBS

from ..control_plane.cluster import Cluster
from ..control_plane.kubectl import Kubectl

MANIFESTS = Path(__file__).parents[3] / "manifests"
NAMESPACE = "taper-system"


def test_the_operator_is_installed_and_upgraded_and_a_sample_applied(api: Cluster) -> None:
    kubectl = Kubectl(api.plane, NAMESPACE)
    kubectl("apply", "--server-side", "--filename", MANIFESTS / "crds")
    for scope in ("one-namespace", "all-namespaces", "all-namespaces"):
        reported = kubectl("apply", "--server-side", "--filename", MANIFESTS / "install" / f"{scope}.yaml")
        assert "deployment.apps/taper serverside-applied" in reported
    (variable,) = (
        each
        for each in kubectl("get", "deployment", "taper", "--output=jsonpath={..env}").split("},{")
        if "TAPER_OPERATOR_NAMESPACES" in each
    )
    assert '"*"' in variable
    kubectl("apply", "--filename", MANIFESTS / "samples" / "cpu.yaml")
    assert api.found(RLHF_JOBS, NAMESPACE, "cpu") is not None
    kubectl("delete", RLHF_JOBS.plural, "cpu")

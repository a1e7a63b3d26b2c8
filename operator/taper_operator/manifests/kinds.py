"""The kinds of objects that the operator reads or creates."""

from __future__ import annotations

from taper_operator.kube.resource import Resource

RLHF_JOBS = Resource(group="taper.dev", version="v1alpha1", plural="rlhfjobs", kind="RLHFJob")
RAY_JOBS = Resource(group="ray.io", version="v1", plural="rayjobs", kind="RayJob")
RAY_CLUSTERS = Resource(group="ray.io", version="v1", plural="rayclusters", kind="RayCluster")
PODS = Resource(group="", version="v1", plural="pods", kind="Pod")
CONFIG_MAPS = Resource(group="", version="v1", plural="configmaps", kind="ConfigMap")
SERVICE_ACCOUNTS = Resource(group="", version="v1", plural="serviceaccounts", kind="ServiceAccount")
CLAIMS = Resource(group="", version="v1", plural="persistentvolumeclaims", kind="PersistentVolumeClaim")
NETWORK_POLICIES = Resource(
    group="networking.k8s.io", version="v1", plural="networkpolicies", kind="NetworkPolicy"
)
POD_MONITORS = Resource(group="monitoring.coreos.com", version="v1", plural="podmonitors", kind="PodMonitor")
TOKEN_REVIEWS = Resource(
    group="authentication.k8s.io",
    version="v1",
    plural="tokenreviews",
    kind="TokenReview",
    is_namespaced=False,
)
DEFINITIONS = Resource(
    group="apiextensions.k8s.io",
    version="v1",
    plural="customresourcedefinitions",
    kind="CustomResourceDefinition",
    is_namespaced=False,
)

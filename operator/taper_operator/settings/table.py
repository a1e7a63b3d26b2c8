"""The operator's settings: flag, variable, default and meaning of each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from taper_operator.settings.parsing import (
    read_address,
    read_grace_seconds,
    read_image,
    read_lease_times,
    read_log_level,
    read_name,
    read_namespace,
    read_namespaces,
    read_qualified_name,
    read_report_url,
    read_secrets,
    read_trusted,
    read_workers,
    read_yes_or_no,
)


class Setting(NamedTuple):
    """A setting: its flag goes before its variable, and both before its default."""

    field: str
    flag: str
    variable: str
    default: str
    read: Callable[[str], Any]
    meaning: str


RUN_SETTINGS = (
    Setting(
        "namespaces",
        "--namespaces",
        "TAPER_OPERATOR_NAMESPACES",
        "",
        read_namespaces,
        "namespaces to watch, with commas between them, or * for all",
    ),
    Setting("identity", "--identity", "POD_NAME", "", read_name, "name of this replica"),
    Setting(
        "namespace", "--namespace", "POD_NAMESPACE", "", read_namespace, "namespace of the operator itself"
    ),
    Setting(
        "lease_name",
        "--lease-name",
        "TAPER_OPERATOR_LEASE_NAME",
        "taper-operator",
        read_name,
        "name of the Lease",
    ),
    Setting(
        "lease_times",
        "--lease-seconds",
        "TAPER_OPERATOR_LEASE_SECONDS",
        "10/7/2",
        read_lease_times,
        "lease duration / renew deadline / retry period",
    ),
    Setting(
        "address",
        "--address",
        "TAPER_OPERATOR_ADDRESS",
        ":8080",
        read_address,
        "where to serve /healthz, /readyz and /metrics",
    ),
    Setting("workers", "--workers", "TAPER_OPERATOR_WORKERS", "4", read_workers, "jobs reconciled at a time"),
    Setting(
        "log_level",
        "--log-level",
        "TAPER_OPERATOR_LOG_LEVEL",
        "info",
        read_log_level,
        "debug, info, warning or error",
    ),
    Setting("kubeconfig", "--kubeconfig", "KUBECONFIG", "", str, "only outside a cluster"),
    Setting(
        "report_address",
        "--report-address",
        "TAPER_OPERATOR_REPORT_ADDRESS",
        ":8443",
        read_address,
        "where jobs are listened to",
    ),
    Setting(
        "report_certificate",
        "--report-certificate",
        "TAPER_OPERATOR_REPORT_CERTIFICATE",
        "",
        str,
        "file with the certificate, and its chain, for the host of --report-url",
    ),
    Setting(
        "report_key",
        "--report-key",
        "TAPER_OPERATOR_REPORT_KEY",
        "",
        str,
        "file with the key of that certificate",
    ),
)


# What jobs' pods may have; `render` reads these only.
POD_SETTINGS = (
    Setting("image", "--image", "TAPER_OPERATOR_IMAGE", "", read_image, "image of jobs that name none"),
    Setting(
        "allowed_secrets",
        "--allowed-secrets",
        "TAPER_OPERATOR_ALLOWED_SECRETS",
        "",
        read_secrets,
        "secrets that jobs may name, with commas between them, or * for all of their namespace",
    ),
    Setting(
        "allows_ipc_lock",
        "--allow-ipc-lock",
        "TAPER_OPERATOR_ALLOW_IPC_LOCK",
        "false",
        read_yes_or_no,
        "whether pods with RDMA may have the capability IPC_LOCK: true or false",
    ),
    Setting(
        "gpu_resource",
        "--gpu-resource",
        "TAPER_OPERATOR_GPU_RESOURCE",
        "nvidia.com/gpu",
        read_qualified_name,
        "resource of a GPU",
    ),
    Setting(
        "gpu_label",
        "--gpu-label",
        "TAPER_OPERATOR_GPU_LABEL",
        "nvidia.com/gpu.product",
        read_qualified_name,
        "node label that names the type of a GPU",
    ),
    Setting(
        "kuberay_namespace",
        "--kuberay-namespace",
        "TAPER_OPERATOR_KUBERAY_NAMESPACE",
        "kuberay-system",
        read_namespace,
        "namespace of KubeRay's operator, which may reach heads",
    ),
    Setting(
        "prometheus_namespace",
        "--prometheus-namespace",
        "TAPER_OPERATOR_PROMETHEUS_NAMESPACE",
        "monitoring",
        read_namespace,
        "namespace of Prometheus, which may reach metrics",
    ),
    Setting(
        "grace_seconds",
        "--grace-seconds",
        "TAPER_OPERATOR_GRACE_SECONDS",
        "60",
        read_grace_seconds,
        "time that pods have to end, where the job says nothing",
    ),
    Setting(
        "report_url",
        "--report-url",
        "TAPER_OPERATOR_REPORT_URL",
        "",
        read_report_url,
        "where jobs reach --report-address; without it they report nothing",
    ),
    Setting(
        "report_ca",
        "--report-ca",
        "TAPER_OPERATOR_REPORT_CA",
        "",
        read_trusted,
        "file with the certificates that jobs know the operator by",
    ),
)

"""The settings that the operator accepts, and its errors about the others."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taper_operator.settings.parsing import Address, LeaseTimes
from taper_operator.settings.pod_policy import PodPolicy
from taper_operator.settings.settings import SettingsError, pod_policy_from, settings_from

from ..certificates import make_certificates

ENVIRONMENT = {
    "TAPER_OPERATOR_NAMESPACES": "*",
    "POD_NAME": "taper-operator-7d9f",
    "POD_NAMESPACE": "taper-system",
}


def test_the_defaults() -> None:
    settings = settings_from([], ENVIRONMENT)
    assert settings.namespaces == ()
    assert settings.watched_namespaces == ("",)
    assert (settings.identity, settings.namespace) == ("taper-operator-7d9f", "taper-system")
    assert settings.lease_times == LeaseTimes(
        duration_seconds=10, renew_deadline_seconds=7, retry_period_seconds=2
    )
    assert settings.address == Address("", 8080)
    assert (settings.workers, settings.lease_name) == (4, "taper-operator")


def test_a_flag_takes_precedence_over_its_variable() -> None:
    environment = ENVIRONMENT | {"TAPER_OPERATOR_WORKERS": "2", "TAPER_OPERATOR_LOG_LEVEL": "debug"}
    settings = settings_from(["--workers=8", "--namespaces", "b, a,b"], environment)
    assert (settings.workers, settings.log_level) == (8, "debug")
    assert settings.watched_namespaces == ("a", "b")


def test_pods_are_allowed_nothing_extra_by_default() -> None:
    assert settings_from([], ENVIRONMENT).pod_policy == PodPolicy()
    assert pod_policy_from([], {}) == PodPolicy()
    environment = {"TAPER_OPERATOR_ALLOWED_SECRETS": "b, a", "TAPER_OPERATOR_ALLOW_IPC_LOCK": "true"}
    policy = pod_policy_from(["--grace-seconds=120"], environment)
    assert policy == PodPolicy(allowed_secrets=frozenset("ab"), allows_ipc_lock=True, grace_seconds=120)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        (":0", Address("", 0)),
        ("127.0.0.1:9000", Address("127.0.0.1", 9000)),
        ("[::1]:9000", Address("::1", 9000)),
    ],
)
def test_addresses(text: str, address: Address) -> None:
    assert settings_from(["--address", text], ENVIRONMENT).address == address


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("--namespaces", ""),
        ("--namespaces", "a,,b"),
        ("--namespaces", "*,a"),
        ("--namespaces", "Team"),
        ("--identity", ""),
        ("--identity", "a/b"),
        ("--namespace", "a" * 64),
        ("--lease-name", "-a"),
        ("--lease-seconds", "10/7"),
        ("--lease-seconds", "7/10/2"),
        ("--lease-seconds", "10/7/0"),
        ("--lease-seconds", "10.5/7/2"),
        ("--lease-seconds", "nan/7/2"),
        ("--lease-seconds", "inf/7/2"),
        ("--address", "8080"),
        ("--address", "localhost:8080"),
        ("--address", ":65536"),
        ("--address", "127.0.0.1:"),
        ("--workers", "0"),
        ("--workers", "many"),
        ("--log-level", "loud"),
        ("--image", "a b"),
        ("--allowed-secrets", "a,,b"),
        ("--allow-ipc-lock", "yes"),
        ("--gpu-resource", "nvidia.com/"),
        ("--gpu-label", "a/b/c"),
        ("--kuberay-namespace", ""),
        ("--prometheus-namespace", "a.b"),
        ("--grace-seconds", "9"),
        ("--report-address", "8443"),
        ("--report-url", "http://a:8443"),
        ("--report-url", "https://a:8443/path"),
        ("--report-url", "https://me@a:8443"),
        ("--report-url", "https://a:port"),
        ("--report-url", "https://"),
        ("--report-ca", "/no/such/file"),
    ],
)
def test_an_error_begins_with_the_settings_name(name: str, text: str) -> None:
    with pytest.raises(SettingsError) as caught:
        settings_from([f"{name}={text}"], ENVIRONMENT)
    (problem,) = caught.value.problems
    assert problem.startswith(f"{name} (")


def test_all_problems_are_reported_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        settings_from(["--workers=0"], {})
    assert [problem.partition(":")[0] for problem in caught.value.problems] == [
        "--namespaces (TAPER_OPERATOR_NAMESPACES)",
        "--identity (POD_NAME)",
        "--namespace (POD_NAMESPACE)",
        "--workers (TAPER_OPERATOR_WORKERS)",
    ]


def test_an_unknown_flag_is_reported_by_its_name() -> None:
    with pytest.raises(SettingsError, match="--worker=3"):
        settings_from(["--worker=3"], ENVIRONMENT)


def test_reports_need_a_url_a_ca_a_certificate_and_a_key(tmp_path: Path) -> None:
    files = make_certificates(tmp_path)
    flags = {
        "--report-url": "https://reports.taper-system.svc:8443",
        "--report-ca": files.ca,
        "--report-certificate": files.certificate,
        "--report-key": files.key,
    }
    settings = settings_from([f"{flag}={value}" for flag, value in flags.items()], ENVIRONMENT)
    assert settings.pod_policy.report_url == flags["--report-url"]
    assert settings.pod_policy.report_ca.text == Path(files.ca).read_text()
    assert (settings.pod_policy.report_ca.path, settings.report_certificate) == (files.ca, files.certificate)
    assert settings.report_address == Address("", 8443)
    for missing in flags:
        given = [f"{flag}={value}" for flag, value in flags.items() if flag != missing]
        with pytest.raises(
            SettingsError, match=rf"^{missing} \(TAPER_OPERATOR_REPORT_\w+\): missing; it is needed with "
        ):
            settings_from(given, ENVIRONMENT)


def test_render_needs_neither_certificate_nor_key(tmp_path: Path) -> None:
    files = make_certificates(tmp_path)
    flags = [f"--report-ca={files.ca}", "--report-url=https://a:8443"]
    assert pod_policy_from(flags, {}).report_url == "https://a:8443"
    with pytest.raises(SettingsError, match="--report-url"):
        pod_policy_from(flags[:1], {})


@given(st.sampled_from(["--namespaces", "--lease-seconds", "--address", "--workers"]), st.text(max_size=12))
def test_any_text_gives_settings_or_a_settings_error(name: str, text: str) -> None:
    try:
        settings_from([f"{name}={text}"], ENVIRONMENT)
    except SettingsError as error:
        assert error.problems

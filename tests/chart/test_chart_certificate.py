"""The certificate of the server that jobs report to."""

from __future__ import annotations

import base64
import contextlib
import ssl
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from taper_operator.settings.certificate import server_context, trusted_certificates

from .chart import objects, of_kind, operator_pod


def test_the_certificate_is_for_the_host_that_jobs_report_to(tmp_path: Path) -> None:
    """Made by helm: a client that trusts `ca.crt` and asks for the host of the URL takes `tls.crt`."""
    (secret,) = of_kind("Secret", objects())
    assert secret["type"] == "kubernetes.io/tls"
    for name in ("tls.crt", "tls.key", "ca.crt"):
        (tmp_path / name).write_bytes(base64.b64decode(secret["data"][name]))
    server = server_context(str(tmp_path / "tls.crt"), str(tmp_path / "tls.key"))
    client = ssl.create_default_context(cadata=trusted_certificates(str(tmp_path / "ca.crt")))
    (container,) = operator_pod()["containers"]
    env = {each["name"]: each.get("value") for each in container["env"]}
    host = urlsplit(env["TAPER_OPERATOR_REPORT_URL"]).hostname
    assert host == "taper-reports.taper-system.svc"
    shake_hands(server, client, host)
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(server, client, "taper-reports.other.svc")


def shake_hands(server: ssl.SSLContext, client: ssl.SSLContext, host: str) -> None:
    """Both ends in memory. Raises SSLError where they do not agree."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server, server_hostname=host),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    for end in ends * 3:
        with contextlib.suppress(ssl.SSLWantReadError):
            end.do_handshake()
    assert ends[0].getpeercert() is not None


def test_the_operator_reads_the_certificate_where_it_is_mounted() -> None:
    pod = operator_pod({"reports": {"secretName": "certificate"}})
    (volume,) = pod["volumes"]
    assert volume["secret"]["secretName"] == "certificate"
    (container,) = pod["containers"]
    (mount,) = container["volumeMounts"]
    assert (mount["name"], mount["readOnly"]) == (volume["name"], True)
    env = {each["name"]: each.get("value") for each in container["env"]}
    files = {env[f"TAPER_OPERATOR_REPORT_{name}"] for name in ("CERTIFICATE", "KEY", "CA")}
    assert files == {f"{mount['mountPath']}/{name}" for name in ("tls.crt", "tls.key", "ca.crt")}

"""Certificates that change in their files."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

import pytest

from taper_operator.settings.certificate import ReloadedFiles, server_context, trusted_certificates

from ..certificates import make_certificates
from ..clock import Clock


def test_a_changed_file_is_reloaded_at_the_next_check(tmp_path: Path) -> None:
    file, clock = tmp_path / "file", Clock()
    file.write_text("1")
    value = ReloadedFiles([str(file)], lambda: int(file.read_text()), clock=clock)
    file.write_text("22")
    clock.now += 9
    assert value.value() == 1
    clock.now += 1
    assert value.value() == 22


def test_the_last_valid_value_is_used_until_the_next_valid_one(tmp_path: Path) -> None:
    file, clock = tmp_path / "file", Clock()
    file.write_text("1")
    value = ReloadedFiles([str(file)], lambda: int(file.read_text()), clock=clock)
    for broken in ("none", None, "2"):
        file.unlink(missing_ok=True)
        if broken is not None:
            file.write_text(broken)
        clock.now += 10
        assert value.value() == (2 if broken == "2" else 1)


def test_a_secret_that_is_mounted_changes_by_a_link(tmp_path: Path) -> None:
    clock = Clock()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    os.symlink("a", tmp_path / "data")
    file = tmp_path / "data" / "file"
    value = ReloadedFiles([str(file)], file.read_text, clock=clock)
    os.symlink("b", tmp_path / "new")
    os.replace(tmp_path / "new", tmp_path / "data")
    clock.now += 10
    assert value.value() == "b"


def test_a_certificate_and_the_key_of_another_do_not_go_together(tmp_path: Path) -> None:
    one, other = make_certificates(tmp_path / "one"), make_certificates(tmp_path / "other")
    assert server_context(one.certificate, one.key).minimum_version == ssl.TLSVersion.TLSv1_3
    with pytest.raises(OSError):
        server_context(one.certificate, other.key)


@pytest.mark.parametrize(
    ("content", "reported"),
    [
        ("", "holds no certificates"),
        ("-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n", "holds no certificates"),
        ("-----BEGIN PRIVATE KEY-----", "holds a private key"),
        ("x" * 2**19, "larger"),
    ],
)
def test_a_ca_file_holds_certificates_and_nothing_else(tmp_path: Path, content: str, reported: str) -> None:
    (tmp_path / "ca.crt").write_text(content)
    with pytest.raises(ValueError, match=reported):
        trusted_certificates(str(tmp_path / "ca.crt"))
    good = Path(make_certificates(tmp_path / "good").ca)
    assert trusted_certificates(str(good)) == good.read_text()

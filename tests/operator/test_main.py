"""The command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from taper_operator.main import main

from ..api.rule_violations import broken


def job_file(folder: Path, **changes: object) -> str:
    file = folder / "job.yaml"
    file.write_text(json.dumps(broken({name.replace("__", "."): value for name, value in changes.items()})))
    return str(file)


def test_render_prints_the_objects_of_an_attempt(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["render", "-f", job_file(tmp_path), "--image=taper/rollout:1"]) == 0
    objects = list(yaml.safe_load_all(capsys.readouterr().out))
    assert [obj["kind"] for obj in objects] == [
        "ServiceAccount",
        "NetworkPolicy",
        "PodMonitor",
        "ConfigMap",
        "RayJob",
    ]
    assert objects[-1]["metadata"]["name"] == "full-1"


def test_render_refuses_what_the_operator_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = job_file(tmp_path, spec__image={"name": "a", "pullSecrets": ["registry"]})
    assert main(["render", "-f", file]) == 2
    assert "spec.image.pullSecrets[0]" in capsys.readouterr().err
    assert main(["render", "-f", file, "--allowed-secrets=registry"]) == 0


@pytest.mark.parametrize(
    ("arguments", "reported"),
    [
        (["render", "-f", "no-such-file.yaml"], "--file"),
        (["render", "-f", "no-such-file.yaml", "--image=a b"], "--image"),
        (["run", "--workers=0"], "--workers"),
    ],
)
def test_errors_name_the_flag(
    arguments: list[str], reported: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("POD_NAME", raising=False)
    assert main(arguments) == 2
    assert reported in capsys.readouterr().err


def test_an_invalid_job_is_reported_by_its_fields(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["render", "-f", job_file(tmp_path, spec__backoffLimit=-1)]) == 2
    assert "spec.backoffLimit" in capsys.readouterr().err

"""Images without a container engine: what their Dockerfiles may and must say, and that they work."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest

from .dockerfile import Instruction, stages_of

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "images").glob("*/Dockerfile"))
OPERATOR = ROOT / "images" / "operator" / "Dockerfile"
# What an image of the operator must never hold.
HEAVY = {"ray", "sglang", "torch", "transformers", "triton", "verl"}

each_file = pytest.mark.parametrize("file", FILES, ids=lambda file: file.parent.name)


def versioned() -> list[str]:
    """The repository's files, with those that are not committed yet, and without what git ignores."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    reported = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if reported.returncode != 0:
        pytest.skip("this is no clone: git does not know its files")
    return [name for name in reported.stdout.splitlines() if (ROOT / name).is_file()]


def in_context(file: str) -> bool:
    """Whether .dockerignore lets a file through. The last pattern that fits decides."""
    is_in = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if line and not line.startswith("#"):
            pattern = line.removeprefix("!").removeprefix("**/")
            parts = Path(file).parts
            above = ["/".join(parts[: end + 1]) for end in range(len(parts))]
            names = [*parts] if "**/" in line else above
            if any(fnmatch(name, pattern) for name in names):
                is_in = line.startswith("!")
    return is_in


@pytest.fixture(scope="module")
def context() -> list[str]:
    return [file for file in versioned() if in_context(file)]


def test_there_are_two_images() -> None:
    assert [file.parent.name for file in FILES] == ["operator", "rollout"]


@each_file
def test_bases_are_pinned_by_tag_and_digest(file: Path) -> None:
    stages = stages_of(file)
    assert len(stages) >= 2
    names = [stage.name for stage in stages]
    for stage in stages:
        assert stage.base in names or re.fullmatch(r"[a-z/]+:\d[-\w.]+@sha256:[0-9a-f]{64}", stage.base)


def test_all_are_of_one_base_and_of_the_environments_python_and_uv() -> None:
    stages = [stage for file in FILES for stage in stages_of(file)]
    assert len({stage.base for stage in stages}) == 1
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert wanted == ">=3.11"
    assert stages[0].base.startswith("python:3.11.")
    (version,) = re.findall(r"^UV_VERSION=(.+)$", (ROOT / "env" / "uv.sh").read_text(), re.MULTILINE)
    installed = [
        run.value
        for stage in stages
        for run in stage.all("RUN")
        if "pip install --no-cache-dir uv" in run.value
    ]
    assert installed == [f"pip install --no-cache-dir uv=={version}"] * len(FILES)


@each_file
def test_it_runs_as_a_user_by_number_that_is_not_root(file: Path) -> None:
    last = stages_of(file)[-1]
    user = last.all("USER")[-1].value
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)
    # And nothing is done as root after it.
    after = last.instructions[[each.name for each in last.instructions].index("USER") + 1 :]
    assert {each.name for each in after} <= {"CMD", "ENTRYPOINT"}


@each_file
def test_it_holds_no_secret_and_fetches_nothing_by_address(file: Path) -> None:
    text = "\n".join(each.value for stage in stages_of(file) for each in stage.instructions)
    assert "://" not in text
    assert not re.search(r"\b(curl|git clone|sudo|ssh)\b|latest", text)
    assert not re.search(r"(?i)(token|password|secret|_key)=", text)
    assert not any(stage.all("ADD") or stage.all("ARG") for stage in stages_of(file))


@each_file
def test_what_is_copied_is_in_the_repository_and_in_the_context(file: Path, context: list[str]) -> None:
    stages = stages_of(file)
    copies = [copy.words for stage in stages for copy in stage.all("COPY")]
    for *sources, _ in copies:
        if sources[0].startswith("--from="):
            assert sources[0].removeprefix("--from=") in [stage.name for stage in stages]
            continue
        for source in sources:
            assert any(name == source or name.startswith(f"{source}/") for name in context), source


def test_the_context_is_what_is_copied_and_no_more(context: list[str]) -> None:
    copied = {
        source
        for file in FILES
        for stage in stages_of(file)
        for copy in stage.all("COPY")
        for source in copy.words[:-1]
    }
    assert {name.partition("/")[0] for name in context} <= copied
    assert not in_context("tests/conftest.py")
    assert not in_context("api/taper_api/__pycache__/spec.cpython-311.pyc")
    assert in_context("api/taper_api/job/spec.py")


@each_file
def test_versions_are_the_locks(file: Path) -> None:
    """What is installed from an index is bound by a lock, and what is built is built with its versions."""
    lock = {"operator": "env/cpu.lock", "rollout": "env/gpu.lock"}[file.parent.name]
    installs = [
        run.value for stage in stages_of(file) for run in stage.all("RUN") if "uv pip install" in run.value
    ]
    dependencies, package = installs
    assert f"--constraint {lock}" in dependencies
    assert re.findall(r"--extra (\S+)", dependencies) == [file.parent.name]
    assert "--no-deps" in package
    assert f"--build-constraint {lock}" in package


def test_the_last_stage_has_no_tools_of_the_build() -> None:
    for file in FILES:
        last = stages_of(file)[-1]
        assert not any("uv" in run.words or "pip" in run.words for run in last.all("RUN"))
    assert stages_of(OPERATOR)[-1].all("RUN") == []


def test_apt_leaves_nothing_behind() -> None:
    runs = [run.value for file in FILES for stage in stages_of(file) for run in stage.all("RUN")]
    for run in (each for each in runs if "apt-get" in each):
        assert "--no-install-recommends" in run
        assert "rm -rf /var/lib/apt/lists/*" in run


def test_the_operator_can_run_where_nothing_can_be_written() -> None:
    last = stages_of(OPERATOR)[-1]
    assert "PYTHONDONTWRITEBYTECODE=1" in last.all("ENV")[0].value
    assert all(
        "--compile-bytecode" in run.value
        for run in build_steps()
        if "pip install" in run.value and "uv==" not in run.value
    )
    assert last.all("ENTRYPOINT")[0].value == '["taper-operator"]'


def test_hadolint_finds_nothing() -> None:
    program = Path(sys.executable).with_name("hadolint")
    reported = subprocess.run([program, *FILES], capture_output=True, text=True, timeout=60)
    assert reported.returncode == 0, reported.stdout + reported.stderr


def build_steps() -> list[Instruction]:
    (build,) = (stage for stage in stages_of(OPERATOR) if stage.name == "build")
    return build.all("RUN")


@pytest.mark.e2e
@pytest.mark.timeout(300)
def test_the_operators_steps_install_it_without_torch(tmp_path: Path, context: list[str]) -> None:
    """The Dockerfile's own steps, with a folder of this test's in place of the image's."""
    uv = shutil.which("uv") or shutil.which(str(ROOT / ".tools" / "bin" / "uv"))
    if uv is None:
        pytest.skip("uv is neither on PATH nor in .tools")
    source, target = tmp_path / "src", tmp_path / "taper"
    for name in context:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("VIRTUAL_ENV", "PYTHON"))
    }
    # The venv is made by the Python that runs this.
    env = kept | {"VIRTUAL_ENV": str(target), "UV_PYTHON_DOWNLOADS": "never"}
    steps = [step.value for step in build_steps() if step.value.startswith("uv ")]
    assert [step.split()[1] for step in steps] == ["venv", "pip", "pip"]
    for step in steps:
        command = step.replace("/opt/taper", str(target)).replace(
            "--python 3.11", f"--python {sys.executable}"
        )
        reported = subprocess.run(
            [uv, *command.split()[1:]], cwd=source, env=env, capture_output=True, text=True, timeout=240
        )
        assert reported.returncode == 0, reported.stderr
    python = target / "bin" / "python"
    listed = subprocess.run(
        [uv, "pip", "list", "--format=freeze", "--python", python],
        env=env,
        capture_output=True,
        text=True,
        check=True,
    )
    installed = set(listed.stdout.splitlines())
    names = {line.partition("==")[0] for line in installed}
    assert not names & HEAVY
    locked = {line for line in (ROOT / "env" / "cpu.lock").read_text().splitlines() if "==" in line}
    assert {line for line in installed if not line.startswith("taper==")} <= locked
    reported = subprocess.run(
        [target / "bin" / "taper-operator", "run"],
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert reported.returncode == 2
    assert "--namespaces (TAPER_OPERATOR_NAMESPACES): missing" in reported.stderr
    assert "Traceback" not in reported.stderr

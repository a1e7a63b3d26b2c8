"""Guards of the house itself: what a tidy change could break without any other test noticing."""

from __future__ import annotations

import ast
import importlib.util
import re
import stat
import statistics
import tomllib
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOCKS = [ROOT / "env" / "cpu.lock", ROOT / "env" / "gpu.lock"]
ROOTS = ["api", "operator", "policy", "rollout"]
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
SOURCES = [file for root in ROOTS for file in (ROOT / root).rglob("*.py")]
PINS = ["ray==2.60.0", "sglang==0.5.23", "torch==2.14.1", "transformers==5.19.0", "verl==0.9.1"]


@pytest.mark.parametrize("folder", ["api", "operator", "policy", "rollout", "tests", "tests/operator"])
def test_source_roots_are_no_packages(folder: str) -> None:
    """A package called `operator` would shadow the standard library's."""
    assert not (ROOT / folder / "__init__.py").exists()


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_locks_hold_the_pins(lock: Path) -> None:
    lines = lock.read_text().splitlines()
    assert [pin for pin in PINS if pin not in lines] == []


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_locks_name_neither_hosts_nor_places(lock: Path) -> None:
    bad = re.compile(r"://|--index|--extra-index|--find-links|(^|\s)/\w")
    assert [line for line in lock.read_text().splitlines() if bad.search(line)] == []


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_locks_hold_every_direct_dependency(lock: Path) -> None:
    """A dependency added to pyproject.toml without `make locks` would be missed only on a fresh machine."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [name for extra in project["optional-dependencies"].values() for name in extra]
    wanted = {_normal(name) for name in project["dependencies"] + extras}
    locked = {_normal(line) for line in lock.read_text().splitlines() if "==" in line}
    assert wanted <= locked


def test_the_cpu_lock_leaves_out_gpu_kernels() -> None:
    locked = {_normal(line) for line in LOCKS[0].read_text().splitlines() if "==" in line}
    assert not locked & {"flashinfer-python", "sglang-kernel", "torchaudio"}


def test_generated_files_are_up_to_date() -> None:
    generate = _module(ROOT / "docs" / "generate.py")
    for file, content in generate.files().items():
        assert file.read_text() == content, f"{file.relative_to(ROOT)} is stale; run: make docs"


def test_there_is_no_crd_that_was_not_generated() -> None:
    generated = {file.name for file in _module(ROOT / "docs" / "generate.py").files()}
    assert [file.name for file in (ROOT / "manifests" / "crds").iterdir() if file.name not in generated] == []


def _markdown_files() -> list[Path]:
    folders = [ROOT / name for name in ("benchmarks", "charts", "docs", "images", "manifests")]
    return [*ROOT.glob("*.md"), *(file for folder in folders for file in folder.rglob("*.md"))]


@pytest.mark.parametrize("page", _markdown_files(), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text())
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_the_two_commands_are_in_the_readme_and_the_makefile() -> None:
    readme, makefile = (ROOT / "README.md").read_text(), (ROOT / "Makefile").read_text()
    for command in ("demo", "test"):
        assert f"make {command}" in readme
        assert re.search(rf"^{command}:", makefile, re.MULTILINE)


def test_ci_runs_the_readmes_test_command() -> None:
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & stat.S_IXUSR
    assert re.search(r"^exec make .*\btest$", script.read_text(), re.MULTILINE)


def test_files_stay_short() -> None:
    assert [file.name for file in SOURCES if len(file.read_text().splitlines()) > 400] == []


@pytest.mark.parametrize("file", ["replica/coordinator.py", "sglang/rank_stacks.py", "sglang/engine.py"])
def test_what_everything_meets_in_stays_small(file: str) -> None:
    """These attract what has no place yet: a new concern gets a file of its own."""
    assert len((ROOT / "rollout" / "taper_rollout" / file).read_text().splitlines()) < 300


def test_functions_stay_short() -> None:
    """The median of the product; a decorator and a docstring count as well."""
    lengths = [length for file in SOURCES for length in _function_lengths(file.read_text())]
    assert len(lengths) > 1000
    assert statistics.median(lengths) <= 8


def test_folders_stay_narrow(tracked: dict[Path, str]) -> None:
    """A folder of Python files fits on a screen."""
    roots = {*ROOTS, "tests", "benchmarks"}
    counts = Counter(str(path.parent) for path in tracked if path.suffix == ".py" and path.parts[0] in roots)
    assert len(counts) > 50
    assert {folder: count for folder, count in counts.items() if count > 16} == {}


def test_no_tracked_file_is_a_link(tracked: dict[Path, str]) -> None:
    """A link leads to a place of one machine, such as an environment beside the checkout."""
    assert [path for path, mode in tracked.items() if mode == "120000"] == []


def test_there_is_no_drawer_for_everything() -> None:
    drawers = {"utils.py", "util.py", "common.py", "helpers.py", "misc.py"}
    assert [file for file in SOURCES if file.name in drawers] == []


def _function_lengths(source: str) -> list[int]:
    """Lines of each function and method, from its first decorator on."""
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, _FUNCTIONS)]
    begins = [min([node.lineno, *(each.lineno for each in node.decorator_list)]) for node in functions]
    return [(node.end_lineno or 0) - begin + 1 for node, begin in zip(functions, begins, strict=True)]


def _normal(requirement: str) -> str:
    name = re.split(r"[\[<>=;\s]", requirement, maxsplit=1)[0]
    return re.sub(r"[-_.]+", "-", name).lower()


def _module(file: Path) -> object:
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(file.parent))
        spec.loader.exec_module(module)
    return module

"""The programs of the test cluster: found in the cache, or built from their pinned Go modules.

Each has a module of its own in `tools/`, since their dependencies conflict. They are built once into the
user's cache, in a folder named after the modules' sums and the build options: a change of either causes a
new build, and checkouts share equal programs. Programs in `KUBEBUILDER_ASSETS` take precedence. The same
folder holds kwok's stages and the CRDs of Prometheus' operator, which are files of such modules.

Run as a program this builds what is missing, which takes some 12 minutes on two cores the first time.
It needs the standard library only.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

MODULES = Path(__file__).parent / "tools"
STAGES = "kwok-stages.yaml"
# Only the CRDs of this module are used, so it is pinned here, by its sum.
_MONITORING_MODULE = "github.com/prometheus-operator/prometheus-operator@v0.85.0"
_MONITORING_SUM = "h1:M5xLCLEoaW2IJfnuCwFzzpL+jSVQu3KGT84Pye+fW8s="
MONITORING = f"monitoring-{_MONITORING_MODULE.rpartition('@')[2]}.yaml"
_MONITORING_PLURALS = ("podmonitors", "prometheusrules", "servicemonitors")
# Read at import: tests use another cache.
_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "taper" / "cluster-tools"
_ENVIRONMENT = {"GOTOOLCHAIN": "local", "CGO_ENABLED": "0", "GOFLAGS": "-trimpath", "GOWORK": "off"}
_STRIPPED = "-s -w"


class NoTools(Exception):
    """A program that is not here, and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """module: its folder in `tools/`; package: what is built; variables: that are set in it"""

    name: str
    module: str
    package: str
    variables: tuple[str, ...] = ()


_KUBERNETES = tuple(
    f"{package}.{variable}"
    for package in ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
    for variable in ("gitVersion={version}", "gitMajor={major}", "gitMinor={minor}", "gitTreeState=clean")
)
TOOLS = (
    Tool(name="etcd", module="etcd", package="go.etcd.io/etcd/server/v3"),
    *(
        Tool(name=name, module="kubernetes", package=f"k8s.io/kubernetes/cmd/{name}", variables=_KUBERNETES)
        for name in ("kube-apiserver", "kubectl", "kube-controller-manager", "kube-scheduler")
    ),
    Tool(name="kwok", module="kwok", package="sigs.k8s.io/kwok/cmd/kwok"),
    Tool(
        name="helm",
        module="helm",
        package="helm.sh/helm/v4/cmd/helm",
        variables=("helm.sh/helm/v4/internal/version.version={version}",),
    ),
    Tool(name="kubeconform", module="kubeconform", package="github.com/yannh/kubeconform/cmd/kubeconform"),
)


def find(name: str) -> Path:
    """A program, or a file that lies beside them. Raises NoTools with the reason."""
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    places = [*([Path(assets)] if assets else []), folder()]
    for place in places:
        if (place / name).is_file():
            return place / name
    why = _why_no_go() or "run: make cluster-tools"
    raise NoTools(f"{name} is in none of {', '.join(map(str, places))}; {why}")


def folder() -> Path:
    """Where the programs of these very modules, built in this very way, are kept."""
    digest = hashlib.sha256(repr((TOOLS, sorted(_ENVIRONMENT.items()), _STRIPPED)).encode())
    for file in sorted(MODULES.glob("*/go.*")):
        digest.update(file.read_bytes())
    return _CACHE / digest.hexdigest()[:16]


def build() -> None:
    """Build what is missing. Raises NoTools, CalledProcessError."""
    missing = [name for name in (*(tool.name for tool in TOOLS), *_FILES) if not _is_found(name)]
    if not missing:
        return
    why = _why_no_go()
    if why:
        raise NoTools(why)
    folder().mkdir(parents=True, exist_ok=True)
    with _only_one():
        for number, tool in enumerate(TOOLS, start=1):
            if not _is_found(tool.name):
                _say(f"building {tool.name} ({number} of {len(TOOLS)})")
                _make(tool.name, partial(_go_build, tool))
        for name, write in _FILES.items():
            if not _is_found(name):
                _make(name, write)


def _is_found(name: str) -> bool:
    try:
        find(name)
    except NoTools:
        return False
    return True


def _why_no_go() -> str:
    """Empty where Go is there and new enough."""
    if shutil.which("go") is None:
        return "there is no Go to build it with"
    wanted = _required("kubernetes", r"^go (\S+)$")
    result = subprocess.run(["go", "env", "GOVERSION"], capture_output=True, text=True, env=_env()).stdout
    found = result.strip().removeprefix("go")
    if _numbers(found) < _numbers(wanted):
        return f"Go {found} is too old to build it with: {wanted} is needed"
    return ""


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])


def _required(module: str, pattern: str) -> str:
    found = re.search(pattern, (MODULES / module / "go.mod").read_text(), re.MULTILINE)
    assert found is not None, f"tools/{module}/go.mod has no {pattern}"
    return found[1]


@contextmanager
def _only_one() -> Iterator[None]:
    """Of two that build at a time the second waits, then finds all that the first has made."""
    with (folder() / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say("waiting for another build")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _make(name: str, write: Callable[[Path], None]) -> None:
    """A file is there whole, or not at all."""
    target = folder() / f".{name}.partial"
    write(target)
    target.replace(folder() / name)


def _go_build(tool: Tool, target: Path) -> None:
    version = _required(tool.module, rf"^require {re.escape(tool.package.partition('/cmd/')[0])} (\S+)$")
    major, minor = _numbers(version)
    values = {"version": version, "major": major, "minor": minor}
    flags = " ".join([_STRIPPED, *(f"-X {variable.format(**values)}" for variable in tool.variables)])
    command = ["go", "build", "-mod=readonly", "-ldflags", flags, "-o", str(target), tool.package]
    subprocess.run(command, cwd=MODULES / tool.module, env=_env(), check=True)


def _write_stages(target: Path) -> None:
    """How kwok makes nodes and pods live: as fast as it can."""
    where = ["go", "list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/kwok"]
    result = subprocess.run(
        where, cwd=MODULES / "kwok", env=_env(), check=True, capture_output=True, text=True
    )
    stages = Path(result.stdout.strip()) / "kustomize" / "stage" / "fast"
    with target.open("w") as file:
        subprocess.run([find("kubectl"), "kustomize", stages], check=True, stdout=file)


def _write_monitoring(target: Path) -> None:
    """The CRDs of what is made for Prometheus' operator."""
    command = ["go", "mod", "download", "-json", _MONITORING_MODULE]
    result = subprocess.run(command, cwd=folder(), env=_env(), capture_output=True, text=True).stdout
    module = json.loads(result or "{}")
    if module.get("Sum") != _MONITORING_SUM:
        why = module.get("Error") or f"its sum is {module.get('Sum')}, and not {_MONITORING_SUM}"
        raise NoTools(f"{_MONITORING_MODULE}: {why}")
    place = Path(module["Dir"]) / "example" / "prometheus-operator-crd"
    files = [place / f"monitoring.coreos.com_{plural}.yaml" for plural in _MONITORING_PLURALS]
    target.write_text("".join(file.read_text() for file in files))


_FILES: dict[str, Callable[[Path], None]] = {STAGES: _write_stages, MONITORING: _write_monitoring}


def _env() -> dict[str, str]:
    return {**os.environ, **_ENVIRONMENT}


def _say(text: str) -> None:
    sys.stderr.write(f"cluster-tools: {text}\n")


def main() -> int:
    """Where nothing can be built, that is said and is no failure: the tests that need it are skipped."""
    try:
        build()
    except NoTools as error:
        _say(f"tests that need what is missing will be skipped: {error}")
    except subprocess.CalledProcessError as error:
        _say(f"{' '.join(map(str, error.cmd))} failed")
        return 1
    else:
        _say(f"ready in {folder()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

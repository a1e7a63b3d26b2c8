"""A test's folder gives its kind: unit tests, tests on a cluster, of the real engine, the main job."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# Read when the hub's client is imported: a test that names a model of the hub fails without retries.
os.environ["HF_HUB_OFFLINE"] = "1"

# A shell starts what it runs in the background with Ctrl-C ignored, and so would all that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

# A busy machine is no failure of a property.
settings.register_profile("taper", deadline=None, suppress_health_check=[HealthCheck.too_slow])
# For `make check`, which is to take less than three minutes: fewer examples of each property.
settings.register_profile("quick", settings.get_profile("taper"), max_examples=25)
settings.load_profile("taper")

FOLDER = Path(__file__).parent
BENCHMARKS = FOLDER.parent / "benchmarks"
# In the order in which they run: what fails fast comes first.
MARKED_FOLDERS = {
    "cluster": FOLDER / "cluster",
    "engine": FOLDER / "rollout" / "sglang",
    "e2e": FOLDER / "e2e",
}
# Starting a cluster or an engine is part of the first test that uses it.
TIMEOUT_SECONDS = {"cluster": 300, "engine": 600, "e2e": 900}


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The user's cache is left alone: profiles measured by tests are kept until they end."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def make_tiny_sample() -> Callable[..., Any]:
    """The benchmarks' function that makes a sample with a small model."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        from parts.tiny_sample import make_tiny_sample

        return make_tiny_sample


@pytest.fixture(autouse=True)
def _no_stray_ray(request: pytest.FixtureRequest) -> Iterator[None]:
    """Many of Ray's functions start it when it does not run: a test that lets them breaks those after it."""
    yield
    ray = sys.modules.get("ray")
    if ray is not None and request.node.get_closest_marker("e2e") is None and ray.is_initialized():
        ray.shutdown()
        pytest.fail("this test has started Ray")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by folder, and run the quick ones first."""
    rank: dict[pytest.Item, int] = {}
    for item in items:
        rank[item] = 0
        for index, (mark, folder) in enumerate(MARKED_FOLDERS.items(), start=1):
            if item.path.is_relative_to(folder):
                item.add_marker(mark)
                if item.get_closest_marker("timeout") is None:
                    item.add_marker(pytest.mark.timeout(TIMEOUT_SECONDS[mark]))
                rank[item] = index
    items.sort(key=rank.__getitem__)

"""VeRL's weight transfer module (VeRL 0.9.1), loaded by its path.

Its package cannot be imported without vLLM, although the module does not need it.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

NAME = "verl.workers.rollout.vllm_rollout.bucketed_weight_transfer"


def load() -> Any:
    """The module, loaded once per process. Raises `ModuleNotFoundError` if VeRL does not have it."""
    if NAME in sys.modules:
        return sys.modules[NAME]
    verl = importlib.util.find_spec("verl")
    if verl is None or not verl.submodule_search_locations:
        raise ModuleNotFoundError("VeRL is not installed")
    file = Path(verl.submodule_search_locations[0], *NAME.split(".")[1:]).with_suffix(".py")
    spec = importlib.util.spec_from_file_location(NAME, file)
    if spec is None or spec.loader is None or not file.is_file():
        raise ModuleNotFoundError(f"VeRL has no {file}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules[NAME] = module
    return module

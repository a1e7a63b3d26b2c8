"""Runs an action right after a module's first import, without importing it.

VeRL loads its plugins in every process that imports it, even those that never use a rollout. So
registrations wait until VeRL imports the module that they change. The cost for other VeRL users is a
dictionary look-up per import.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import logging
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

Action = Callable[[ModuleType], None]

_logger = logging.getLogger(__name__)


class AfterImport(importlib.abc.MetaPathFinder):
    """An import finder that adds an action to the specs that other finders find."""

    def __init__(self) -> None:
        self._actions: dict[str, Action] = {}

    def add(self, name: str, action: Action) -> None:
        """Run `action(module)` after module `name` is imported, or now if it already is."""
        module = sys.modules.get(name)
        # A module that is still being imported is in sys.modules too, but lacks some of its names.
        if module is not None and not getattr(module.__spec__, "_initializing", False):
            _run(action, module)
            return
        self._actions[name] = action
        if self not in sys.meta_path:
            sys.meta_path.insert(0, self)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec from the other finders, with the action added; None if there is no action."""
        action = self._actions.pop(fullname, None)
        if action is None:
            return None
        spec = importlib.util.find_spec(fullname)  # does not recurse: the action is popped
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_act(module: ModuleType) -> None:
                execute(module)
                _run(action, module)

            spec.loader.exec_module = execute_and_act  # type: ignore[method-assign]
        return spec


def _run(action: Action, module: ModuleType) -> None:
    """Log a failed action instead of raising: the import must work for users of another rollout."""
    try:
        action(module)
    except Exception:
        _logger.exception("Taper could not prepare %s; rollout.name=taper will not work", module.__name__)

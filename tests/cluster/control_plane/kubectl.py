"""kubectl, as an administrator uses it in one namespace."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from .cluster_tools import find
from .control_plane import ControlPlane

_SECONDS = 60


class Kubectl:
    """See the module's docstring."""

    def __init__(self, plane: ControlPlane, namespace: str) -> None:
        self.namespace = namespace
        self._program = find("kubectl")
        self._flags = [
            f"--kubeconfig={plane.admin_kubeconfig}",
            f"--namespace={namespace}",
            f"--cache-dir={plane.folder / 'kubectl'}",
        ]

    def __call__(self, *arguments: str | Path) -> str:
        """What it prints. An error of it is one of the test."""
        command = [self._program, *self._flags, *arguments]
        # Without the settings of the user who runs the tests.
        environment = {"PATH": os.environ["PATH"]}
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_SECONDS, env=environment, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

"""The environment of a pod's container, on this machine: its variables, and its files in a folder.

kwok says of pods that they run, and runs nothing. For what is to run as if it were in one, the volumes are
made as the kubelet makes them, of what the API server has: a ConfigMap's content, a token asked for in the
pod's name, empty directories. No path of a container is one of this machine, so each is written as that of
its copy wherever it comes up: in variables, in the command, and in the files that the ConfigMap brings.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from taper_operator.kube.resource import KubeObject, ObjectKey
from taper_operator.manifests.kinds import CONFIG_MAPS

from ..control_plane.cluster import Cluster

_SHARED_MEMORY = "/dev/shm"
# Of a path that ends there, or goes on below.
_ENDS = r"(?=[/\s:\"']|$)"
_BEGINS = r"(?<![\w./-])"


class PodFiles:
    """See the module's docstring. Its pod has one container.

    folder: where the files are put
    image: what comes with the image, by its place in the container
    """

    def __init__(
        self, cluster: Cluster, pod: KubeObject, folder: Path, image: Mapping[str, Path] | None = None
    ) -> None:
        self._cluster = cluster
        self._pod = pod
        (self._container,) = pod["spec"]["containers"]
        self._places = dict(image or {})
        volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
        for mount in self._container["volumeMounts"]:
            if mount["mountPath"] != _SHARED_MEMORY:
                self._places[mount["mountPath"]] = folder / mount["name"]
        for mount in self._container["volumeMounts"]:
            if mount["mountPath"] != _SHARED_MEMORY:
                self._make(volumes[mount["name"]], folder / mount["name"])

    def here(self, text: str) -> str:
        """The text with each path of the container as it is on this machine."""
        longest_first = sorted(self._places, key=len, reverse=True)
        pattern = _BEGINS + f"({'|'.join(map(re.escape, longest_first))})" + _ENDS
        return re.sub(pattern, lambda found: str(self._places[found[1]]), text)

    def variables(self) -> dict[str, str]:
        """The container's own variables."""
        return {
            # As the kubelet expands `$$`.
            each["name"]: self.here(each["value"].replace("$$", "$"))
            for each in self._container["env"]
        }

    def _make(self, volume: KubeObject, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        match volume:
            case {"emptyDir": _}:
                pass
            case {"configMap": {"name": name}}:
                key = ObjectKey(self._pod["metadata"]["namespace"], name)
                for file, content in self._cluster.api.get(CONFIG_MAPS, key)["data"].items():
                    (folder / file).write_text(self.here(content))
            case {"projected": {"sources": [{"serviceAccountToken": projection}]}}:
                file = folder / projection["path"]
                file.touch(mode=0o600)
                file.write_text(self._cluster.projected_token(self._pod, projection))
            case _:
                raise AssertionError(f"there is no such volume on this machine: {volume}")

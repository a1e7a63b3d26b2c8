"""Rules on `spec.volumes`, which only a cluster reads."""

from __future__ import annotations

from collections.abc import Iterator

from taper_api.base.job_error import Problem
from taper_api.job.spec import RLHFJobSpec
from taper_api.rules.rule import CelRule, Rule

_CHECKPOINTS = "spec.volumes.checkpoints"
_CACHE = "spec.volumes.modelCache"
_OWN_PATH = "give each a mountPath of its own"


def _checkpoints_volume(spec: RLHFJobSpec) -> Iterator[Problem]:
    volume = spec.volumes.checkpoints
    if volume is None:
        return
    if (volume.claim_name is None) == (volume.size is None):
        yield Problem(
            path=_CHECKPOINTS,
            message="has both claimName and size, or neither",
            remedy="name a claim, or give a size",
        )
    if volume.storage_class_name is not None and volume.size is None:
        yield Problem(
            path=f"{_CHECKPOINTS}.storageClassName",
            message="is set, but no claim is created",
            remedy="remove it, or give a size instead of claimName",
        )


CHECKPOINTS_VOLUME = Rule(
    text="`volumes.checkpoints` has either `claimName` or `size`; a storage class only with `size`.",
    check=_checkpoints_volume,
    cel=(
        CelRule(
            at=_CHECKPOINTS,
            rule="has(self.claimName) != has(self.size)",
            message=f"{_CHECKPOINTS} must have either claimName or size: name a claim, or give a size",
        ),
        CelRule(
            at=_CHECKPOINTS,
            rule="!has(self.storageClassName) || has(self.size)",
            message=f"{_CHECKPOINTS}.storageClassName is for a claim that the operator creates: remove it, "
            "or give a size instead of claimName",
            field_path=".storageClassName",
        ),
    ),
)


def _model_cache(spec: RLHFJobSpec) -> Iterator[Problem]:
    volume = spec.volumes.model_cache
    if volume is None:
        return
    if volume.claim_name is not None and volume.size is not None:
        yield Problem(
            path=f"{_CACHE}.size", message="is set, but a claim has a size of its own", remedy="remove it"
        )
    if volume.claim_name is None and volume.sub_path is not None:
        yield Problem(
            path=f"{_CACHE}.subPath",
            message="is set, but there is no claim",
            remedy="remove it, or name a claim",
        )


MODEL_CACHE = Rule(
    text="`volumes.modelCache` has `size` or `claimName`, not both; `subPath` needs `claimName`.",
    check=_model_cache,
    cel=(
        CelRule(
            at=_CACHE,
            rule="!has(self.size) || !has(self.claimName)",
            message=f"{_CACHE}.size is for a directory of the pod, because a claim has a size of its own: "
            "remove it",
            field_path=".size",
        ),
        CelRule(
            at=_CACHE,
            rule="!has(self.subPath) || has(self.claimName)",
            message=f"{_CACHE}.subPath needs a claim: remove it, or name a claim",
            field_path=".subPath",
        ),
    ),
)


def _mounts(spec: RLHFJobSpec) -> Iterator[Problem]:
    volumes = spec.volumes
    mounts = [(f"spec.volumes.data[{index}]", volume.mount_path) for index, volume in enumerate(volumes.data)]
    if volumes.checkpoints is not None:
        mounts.append(("spec.volumes.checkpoints", volumes.checkpoints.mount_path))
    if volumes.model_cache is not None:
        mounts.append(("spec.volumes.modelCache", volumes.model_cache.mount_path))
    for index, (path, mount) in enumerate(mounts):
        others = mounts[:index] + mounts[index + 1 :]
        above = [other for other, place in others if f"{mount}/".startswith(f"{place}/")]
        if above:
            yield Problem(
                path=f"{path}.mountPath",
                message=f"{mount} lies at or under {above[0]}.mountPath",
                remedy="use a path of its own",
            )


def _apart(one: str, two: str) -> str:
    """CEL for: neither of two paths lies at or under the other."""
    return f"!({one} + '/').startsWith({two} + '/') && !({two} + '/').startsWith({one} + '/')"


def _mount_in_cel(name: str) -> CelRule:
    return CelRule(
        at="spec.volumes",
        rule=f"!has(self.{name}) || self.data.all(v, {_apart('v.mountPath', f'self.{name}.mountPath')})",
        message=f"spec.volumes.{name} must not be mounted at, over or under one of spec.volumes.data: "
        f"{_OWN_PATH}",
        field_path=f".{name}",
    )


MOUNTS = Rule(
    text="No volume is mounted at or under another one's `mountPath`.",
    check=_mounts,
    cel=(
        CelRule(
            at="spec.volumes",
            rule="self.data.all(v, self.data.exists_one(w, "
            "(w.mountPath + '/').startsWith(v.mountPath + '/')))",
            message=f"spec.volumes.data must not be mounted at or under each other: {_OWN_PATH}",
            field_path=".data",
        ),
        _mount_in_cel("checkpoints"),
        _mount_in_cel("modelCache"),
        CelRule(
            at="spec.volumes",
            rule="!has(self.checkpoints) || !has(self.modelCache) || "
            f"({_apart('self.checkpoints.mountPath', 'self.modelCache.mountPath')})",
            message=f"spec.volumes.modelCache must not be mounted at, over or under the checkpoints: "
            f"{_OWN_PATH}",
            field_path=".modelCache",
        ),
    ),
)

VOLUME_RULES: tuple[Rule[RLHFJobSpec], ...] = (CHECKPOINTS_VOLUME, MODEL_CACHE, MOUNTS)

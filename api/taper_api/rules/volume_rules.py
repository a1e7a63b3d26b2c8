"""Rules on `spec.volumes`, which only a cluster reads."""

from __future__ import annotations

from collections.abc import Iterator

from taper_api.base.job_error import Problem
from taper_api.job.spec import RLHFJobSpec
from taper_api.rules.rule import CelRule, Constraint, Rule, rule_of

_CHECKPOINTS = "spec.volumes.checkpoints"
_CACHE = "spec.volumes.modelCache"
_OWN_PATH = "give each a mountPath of its own"


CHECKPOINTS_VOLUME = rule_of(
    "`volumes.checkpoints` has either `claimName` or `size`; a storage class only with `size`.",
    Constraint(
        at=_CHECKPOINTS,
        holds=lambda volume: (volume.claim_name is None) != (volume.size is None),
        cel="has(self.claimName) != has(self.size)",
        message="must have either claimName or size",
        remedy="name a claim, or give a size",
    ),
    Constraint(
        at=_CHECKPOINTS,
        field="storageClassName",
        holds=lambda volume: volume.storage_class_name is None or volume.size is not None,
        cel="!has(self.storageClassName) || has(self.size)",
        message="is set, but no claim is created",
        remedy="remove it, or give a size instead of claimName",
    ),
)
MODEL_CACHE = rule_of(
    "`volumes.modelCache` has `size` or `claimName`, not both; `subPath` needs `claimName`.",
    Constraint(
        at=_CACHE,
        field="size",
        holds=lambda volume: volume.size is None or volume.claim_name is None,
        cel="!has(self.size) || !has(self.claimName)",
        message="is set, but a claim has a size of its own",
        remedy="remove it",
    ),
    Constraint(
        at=_CACHE,
        field="subPath",
        holds=lambda volume: volume.sub_path is None or volume.claim_name is not None,
        cel="!has(self.subPath) || has(self.claimName)",
        message="is set, but there is no claim",
        remedy="remove it, or name a claim",
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

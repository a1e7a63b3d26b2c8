"""What is mounted into every pod of a job. Claims of its own namespace only: there is no host path."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from taper_api.base.block import Block
from taper_api.base.kubernetes_names import DnsSubdomain, MountPath, SubPath
from taper_api.base.quantity import Bytes


class CheckpointsVolume(Block):
    """Where checkpoints outlive the pods: a claim that exists (`claimName`) or one that is made (`size`)."""

    claim_name: DnsSubdomain | None = Field(
        default=None, description="A PersistentVolumeClaim that exists, of the job's namespace."
    )
    sub_path: SubPath | None = Field(default=None, description="Directory in it. Default: all of it.")
    size: Bytes | None = Field(
        default=None,
        description="Size of a claim that the operator makes for the job, and that outlives the job.",
    )
    storage_class_name: DnsSubdomain | None = Field(
        default=None, description="Storage class of that claim. Default: the cluster's."
    )
    access_mode: Literal["ReadWriteMany", "ReadWriteOnce"] = Field(
        default="ReadWriteMany", description="Access mode of that claim."
    )
    mount_path: MountPath = Field(default="/mnt/checkpoints", description="Where it is mounted, under /mnt.")


class DataVolume(Block):
    """A claim with data."""

    claim_name: DnsSubdomain = Field(
        description="A PersistentVolumeClaim that exists, of the job's namespace."
    )
    sub_path: SubPath | None = Field(default=None, description="Directory in it. Default: all of it.")
    read_only: bool = Field(default=True, description="Mount it for reading only.")
    mount_path: MountPath = Field(description="Where it is mounted, under /mnt.")


class ModelCacheVolume(Block):
    """Where models that are named by their Hugging Face id are kept: in a claim, or with the pod."""

    claim_name: DnsSubdomain | None = Field(
        default=None,
        description="A PersistentVolumeClaim that exists, of the job's namespace. Default: a directory of "
        "the pod, gone when it ends.",
    )
    sub_path: SubPath | None = Field(default=None, description="Directory in it. Default: all of it.")
    size: Bytes | None = Field(default=None, description="Most that the pod's own directory may hold.")
    mount_path: MountPath = Field(default="/mnt/models", description="Where it is mounted, under /mnt.")


class Volumes(Block):
    """What is mounted into every pod of the job."""

    checkpoints: CheckpointsVolume | None = Field(
        default=None, description="Where checkpoints outlive the pods. Default: they do not."
    )
    data: Annotated[tuple[DataVolume, ...], Field(strict=False, max_length=8)] = Field(
        default=(), description="Claims with data."
    )
    model_cache: ModelCacheVolume | None = Field(
        default=None, description="Where models that are named by their Hugging Face id are kept."
    )

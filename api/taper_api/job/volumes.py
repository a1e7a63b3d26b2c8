"""Volumes of every pod of a job: claims of the job's own namespace only, no host path."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from taper_api.base.block import Block
from taper_api.base.kubernetes_names import DnsSubdomain, MountPath, SubPath
from taper_api.base.quantity import Bytes


class CheckpointsVolume(Block):
    """A claim for checkpoints, kept after the pods: an existing one (`claimName`) or a new one (`size`)."""

    claim_name: DnsSubdomain | None = Field(
        default=None, description="An existing PersistentVolumeClaim of the job's namespace."
    )
    sub_path: SubPath | None = Field(default=None, description="Directory in it. Default: all of it.")
    size: Bytes | None = Field(
        default=None,
        description="Size of a claim that the operator creates for the job and never deletes.",
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

    claim_name: DnsSubdomain = Field(description="An existing PersistentVolumeClaim of the job's namespace.")
    sub_path: SubPath | None = Field(default=None, description="Directory in it. Default: all of it.")
    read_only: bool = Field(default=True, description="Mount it for reading only.")
    mount_path: MountPath = Field(description="Where it is mounted, under /mnt.")


class ModelCacheVolume(Block):
    """A cache for models that are named by their Hugging Face id: in a claim, or with the pod."""

    claim_name: DnsSubdomain | None = Field(
        default=None,
        description="An existing PersistentVolumeClaim of the job's namespace. Default: a directory of "
        "the pod, deleted with it.",
    )
    sub_path: SubPath | None = Field(default=None, description="Directory in it. Default: all of it.")
    size: Bytes | None = Field(default=None, description="Size limit of the pod's own directory.")
    mount_path: MountPath = Field(default="/mnt/models", description="Where it is mounted, under /mnt.")


class Volumes(Block):
    """Volumes of every pod of the job."""

    checkpoints: CheckpointsVolume | None = Field(
        default=None, description="A claim for checkpoints. Default: they are deleted with the pods."
    )
    data: Annotated[tuple[DataVolume, ...], Field(strict=False, max_length=8)] = Field(
        default=(), description="Claims with data."
    )
    model_cache: ModelCacheVolume | None = Field(
        default=None, description="A cache for models that are named by their Hugging Face id."
    )

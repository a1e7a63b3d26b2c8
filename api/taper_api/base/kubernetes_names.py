"""Names, labels and paths as an API server takes them, each with the bound that it has there.

Patterns are of the dialect that Rust's, Go's and CEL's regular expressions share: the parser, the
schema and the rules on the keys of maps all use them.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN = rf"{_LABEL}(\.{_LABEL})*"
_QUALIFIED = r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
# Name of an RLHFJob. The operator appends up to five characters for the RayJob, which KubeRay limits to 47.
MAX_JOB_NAME_CHARACTERS = 42
JOB_NAME_PATTERN = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"
_PATH_PART = r"[A-Za-z0-9][-A-Za-z0-9._]*"


def without_nulls(content: Any) -> Any:
    """A map without its null values: an API server leaves them out too."""
    if not isinstance(content, dict):
        return content
    return {key: value for key, value in content.items() if value is not None}


DnsLabel = Annotated[str, Field(max_length=63, pattern=rf"^{_LABEL}$")]
DnsSubdomain = Annotated[str, Field(max_length=253, pattern=rf"^{_SUBDOMAIN}$")]
LabelKey = Annotated[str, Field(max_length=317, pattern=rf"^({_SUBDOMAIN}/)?{_QUALIFIED}$")]
LabelValue = Annotated[str, Field(max_length=63, pattern=rf"^({_QUALIFIED})?$")]
# Without a prefix: prefixes belong to those who give a label its meaning.
PlainLabelKey = Annotated[str, Field(max_length=63, pattern=rf"^{_QUALIFIED}$")]

# Those of the object itself: an API server limits their size, not their number.
Labels = dict[LabelKey, LabelValue]
Annotations = dict[LabelKey, str]
NodeLabels = Annotated[dict[LabelKey, LabelValue], Field(max_length=16), BeforeValidator(without_nulls)]
PlainLabels = Annotated[dict[PlainLabelKey, LabelValue], Field(max_length=16), BeforeValidator(without_nulls)]

# Nothing in it can climb out, and nothing of the image's own lies there.
MountPath = Annotated[str, Field(max_length=256, pattern=rf"^/mnt(/{_PATH_PART})+$")]
SubPath = Annotated[str, Field(max_length=256, pattern=rf"^{_PATH_PART}(/{_PATH_PART})*$")]

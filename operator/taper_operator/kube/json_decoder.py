"""Decodes JSON from the API server, however deeply nested.

Where a definition preserves unknown fields, such as `spec.verl` of an RLHFJob, any user can nest an object
so deeply that Python's decoder, and whatever walks over its result, raises RecursionError. One such object
would end every list and every watch of its kind. So the depth is bounded here: mappings and lists on level
`MAX_LEVELS` come back empty.

No field that the operator reads is that deep, the definition of a kind included (36 levels for KubeRay's
RayJob). Where any JSON may stand, the parser of jobs allows far fewer levels (`MAX_SETTING_LEVELS` in
`taper_api.job.spec`), so a job that was cut here is refused there, by the name of the field.

Strategy: decode, then check the depth. Only what is too deep is cut, as text, and decoded again. Nothing
recurses beyond the bound, and the time is linear in the length of the text.

Invariants (asserted by `tests/operator/kube/test_json_decoder.py`):
- what is nested in at most `MAX_LEVELS` levels is decoded as `json.loads` does;
- everything else is decoded too, is the same down to that level, and is empty there;
- what is not JSON raises ValueError.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

from taper_api.base.nesting import is_deeper

MAX_LEVELS: Final = 100
# A whole string, whose brackets do not count; else a bracket. Possessive: no text makes it backtrack.
_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[\[{]|[\]}]')


def decoded(text: bytes) -> Any:
    """The content of a JSON text in UTF-8, without what lies below `MAX_LEVELS`. Raises ValueError.

    An object that was cut must not be written back as a whole.
    """
    try:
        content = json.loads(text)
    except RecursionError:
        return json.loads(_cut(text))
    return json.loads(_cut(text)) if is_deeper(content, MAX_LEVELS) else content


def _cut(text: bytes) -> bytes:
    """The text without what is between the brackets of level `MAX_LEVELS`."""
    kept: list[bytes] = []
    level = start = 0
    for token in _TOKEN.finditer(text):
        if token[0] in b"{[":
            level += 1
            if level == MAX_LEVELS:
                kept.append(text[start : token.end()])
        elif token[0] in b"}]":
            if level == MAX_LEVELS:
                start = token.start()
            level -= 1
    return b"".join([*kept, text[start:]])

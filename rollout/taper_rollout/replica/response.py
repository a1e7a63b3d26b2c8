"""A response in VeRL's terms, made from the engine's last output of a request."""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Generated:
    """A response. `stop_reason`: "completed", "length" or "aborted"; `log_probs` one for each token."""

    token_ids: list[int]
    log_probs: list[float] | None
    stop_reason: str
    num_preempted: int

    @classmethod
    def rejected(cls, logprobs: bool) -> Generated:
        """The empty response to a request that is not served."""
        return cls(token_ids=[], log_probs=[] if logprobs else None, stop_reason="aborted", num_preempted=0)


def generated(output: dict[str, Any], logprobs: bool) -> Generated:
    """Ids, log-probs if asked for, and the reason in VeRL's words, of an SGLang output."""
    meta = output["meta_info"]
    reason = meta["finish_reason"]["type"]
    token_ids = list(output["output_ids"])
    values = [entry[0] for entry in meta.get("output_token_logprobs") or []][: len(token_ids)]
    return Generated(
        token_ids=token_ids,
        log_probs=values if logprobs else None,
        stop_reason={"stop": "completed", "length": "length"}.get(reason, "aborted"),
        num_preempted=int(meta.get("num_retractions") or 0),
    )

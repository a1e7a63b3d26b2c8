"""The sample's reward, noting which row each response answers. One process scores: lines keep whole."""

from __future__ import annotations

import os
from typing import Any

from taper_rollout.sample.reward import even_digits


def reward(extra_info: dict[str, Any], **arguments: Any) -> float:
    """As `even_digits`."""
    with open(os.environ["ROW_FILE"], "a") as file:
        file.write(f"{extra_info['index']}\n")
    return even_digits(extra_info=extra_info, **arguments)

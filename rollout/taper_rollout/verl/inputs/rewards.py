"""The built-in rewards, and the wrapper around every reward that VeRL calls (VeRL 0.9.1).

If a reward raises, VeRL treats the sample as missing and continues. The wrapper, `score`, also posts the
error to the run's reporter, which ends the run. VeRL calls it as its custom reward function, with the
job's function as an argument.
"""

from __future__ import annotations

import asyncio
import functools
import importlib.util
import inspect
import math
import numbers
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

GUARD_PATH = "pkg://taper_rollout.verl.inputs.rewards"
GUARD_NAME = "score"

Score = float | Mapping[str, Any]
RewardFunction = Callable[..., Any]


class RewardFailed(RuntimeError):
    """A reward function raised, or did not return a score."""


def exact_match(
    data_source: str,
    solution_str: str,
    ground_truth: str,
    extra_info: Any = None,
    *,
    ignore_case: bool = False,
) -> float:
    """1.0 if the response equals the reference answer, ignoring surrounding white space; else 0.0."""
    answer, expected = solution_str.strip(), ground_truth.strip()
    return float(answer.lower() == expected.lower() if ignore_case else answer == expected)


def number(data_source: str, solution_str: str, ground_truth: str, extra_info: Any = None) -> float:
    """1.0 if the last number of the response equals the reference answer as a number; else 0.0."""
    found = re.findall(r"-?\d[\d,]*\.?\d*", solution_str)
    if not found:
        return 0.0
    answer, expected = (float(text.replace(",", "")) for text in (found[-1], ground_truth))
    return float(math.isclose(answer, expected, rel_tol=1e-9, abs_tol=1e-9))


def gsm8k(
    data_source: str, solution_str: str, ground_truth: str, extra_info: Any = None, *, method: str = "strict"
) -> float:
    """VeRL's GSM8K score: 1.0 if the number after `####` (`method: flexible`: the last number) is correct."""
    from verl.utils.reward_score.gsm8k import compute_score

    return float(compute_score(solution_str, ground_truth, method=method))


def math_boxed(data_source: str, solution_str: str, ground_truth: str, extra_info: Any = None) -> float:
    """VeRL's MATH score: 1.0 if the content of the last `\\boxed{}` is equivalent to the reference answer."""
    from verl.utils.reward_score.math_reward import compute_score

    return float(compute_score(solution_str, ground_truth))


BUILT_IN: dict[str, RewardFunction] = {
    "exact-match": exact_match,
    "number": number,
    "gsm8k": gsm8k,
    "math": math_boxed,
}


@functools.cache
def reward_function(name: str) -> RewardFunction:
    """The function of a built-in name or of `file.py:function`.

    Raises `ValueError` if it does not exist, and `RewardFailed` if loading the file raises.
    """
    file, colon, function = name.rpartition(":")
    if not colon:
        if name not in BUILT_IN:
            raise ValueError(
                f"there is no built-in reward {name!r}; use {', '.join(BUILT_IN)}, or file.py:function"
            )
        return BUILT_IN[name]
    spec = importlib.util.spec_from_file_location(f"taper_reward_{Path(file).stem}", file)
    if spec is None or spec.loader is None:
        raise ValueError(f"{file} is not a Python file; write file.py:function")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise RewardFailed(f"{file} cannot be loaded: {type(error).__name__}: {error}") from error
    found = getattr(module, function, None)
    if not callable(found):
        raise ValueError(f"{file} has no function {function!r}; define it there")
    return found


def score(
    data_source: str,
    solution_str: str,
    ground_truth: str,
    extra_info: Any = None,
    *,
    function: str,
    settings: Mapping[str, Any] | None = None,
    run: str | None = None,
    **verl_arguments: Any,
) -> Score:
    """Call the job's reward for a response, as VeRL's custom reward function.

    Returns a number, or a mapping with the number under "score". Raises `RewardFailed` with the function
    and its error or result, after posting it to the reporter `run`.
    """
    try:
        result = reward_function(function)(
            data_source=data_source,
            solution_str=solution_str,
            ground_truth=ground_truth,
            extra_info=extra_info,
            **dict(settings or {}),
            **verl_arguments,
        )
        if inspect.isawaitable(result):
            result = asyncio.run(_awaited(result))
        return checked(result)
    except Exception as error:
        failure = RewardFailed(f"the reward {function} failed: {type(error).__name__}: {error}")
        if run is not None:
            _post_failure(run, str(failure))
        raise failure from error


async def _awaited(result: Any) -> Any:
    return await result


def checked(result: Any) -> Score:
    """`result`, if it is a score. Raises `TypeError` or `ValueError` otherwise."""
    value = result.get("score") if isinstance(result, Mapping) else result
    if not isinstance(value, numbers.Real):
        raise TypeError(f'it returned {result!r}; return a number, or a mapping with a number under "score"')
    if not math.isfinite(value):
        raise ValueError(f"it returned {value!r}; return a finite number")
    return result if isinstance(result, Mapping) else float(value)


def _post_failure(run: str, message: str) -> None:
    import ray

    from taper_rollout.events import Failure

    ray.get(ray.get_actor(run).post.remote(Failure(message=message)), timeout=30)

"""Checks tokenizer and reward and converts the prompts, before Ray starts.

Errors of the user that can be found without the cluster are found here, within seconds, and name the field.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from taper_api import JobError, RLHFJob
from taper_rollout.verl.inputs.dataset import CountTokens, convert
from taper_rollout.verl.inputs.rewards import RewardFailed, reward_function

_MODEL = "spec.model.path"


def train_file(output: Path) -> Path:
    """The training prompts as VeRL reads them."""
    return output / "data" / "train.parquet"


def validation_file(job: RLHFJob, output: Path) -> Path:
    """The validation prompts. VeRL always opens this file: without validation it is the training one."""
    return output / "data" / "validation.parquet" if job.spec.data.validation else train_file(output)


def prepare(job: RLHFJob, output: Path) -> None:
    """Check the job and write its prompts under `output`. Raises `JobError`."""
    _check_reward(job.spec.reward.function)
    count = prompt_counter(job.spec.model.path, trust_remote_code=job.spec.model.trust_remote_code)
    write = functools.partial(convert, job.spec.data, data_source=job.metadata.name, count_tokens=count)
    num_prompts = write("train", train_file(output))
    _check_batch(num_prompts, job.spec.training.batch_prompts)
    if job.spec.data.validation:
        num_kept = write("validation", validation_file(job, output))
        if num_kept == 0:
            raise JobError.at(
                "spec.data.validation",
                "no prompt fits into maxPromptTokens",
                "use files with shorter prompts, or raise spec.data.maxPromptTokens",
            )


def _check_reward(function: str) -> None:
    try:
        reward_function(function)
    except (ValueError, RewardFailed) as error:
        raise JobError.at("spec.reward.function", str(error)) from error


def _check_batch(num_prompts: int, batch_prompts: int) -> None:
    """VeRL drops an incomplete last batch: with fewer prompts than a batch there would be no step."""
    if num_prompts < batch_prompts:
        raise JobError.at(
            "spec.training.batchPrompts",
            f"{batch_prompts} prompts per step, but the training files have only {num_prompts}",
            "use a smaller batch, or more prompts",
        )


def prompt_counter(model: str, *, trust_remote_code: bool) -> CountTokens:
    """A function that counts the tokens of chat messages with the model's tokenizer.

    Raises `JobError` for a model without a tokenizer, or a tokenizer without a chat template.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(model, trust_remote_code=trust_remote_code)
    except Exception as error:  # a broken tokenizer can raise anything
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        remedy = "save the model's tokenizer in its directory, or name a model that has one"
        raise JobError.at(_MODEL, f"{model} has no usable tokenizer ({reason})", remedy) from error
    if not getattr(tokenizer, "chat_template", None):
        remedy = "use a chat model, or add chat_template.jinja to its directory"
        raise JobError.at(_MODEL, f"the tokenizer of {model} has no chat template", remedy)

    def count(messages: list[dict[str, str]]) -> int:
        text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        return len(tokenizer(text, add_special_tokens=False)["input_ids"])

    return count

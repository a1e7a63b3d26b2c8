"""Converts a job's prompts to the parquet rows that VeRL reads (VeRL 0.9.1: `RLHFDataset`, reward managers).

VeRL needs chat messages under `prompt`, a `data_source`, and the reference answer inside `reward_model`.
A job names one field for the prompt and one for the answer. VeRL itself never refuses an overlong
prompt: it truncates it, whatever `data.truncation` says. So `overlong: error` is checked here, where the
error can name the row.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from taper_api import JobError, Problem
from taper_api.job.spec import DataSpec

CountTokens = Callable[[list[dict[str, str]]], int]


def verl_row(
    row: Mapping[str, Any], data: DataSpec, *, index: int, split: str, data_source: str
) -> dict[str, Any]:
    """One VeRL row. Text becomes one user message; chat messages stay as they are.

    Raises `ValueError` that says what is wrong with the row.
    """
    for field in (data.prompt_field, data.answer_field):
        if row.get(field) is None:
            present = ", ".join(sorted(row)) or "nothing"
            raise ValueError(f"has no field {field!r}; it has {present}")
    return {
        "data_source": data_source,
        "prompt": _messages(row[data.prompt_field], data.prompt_field),
        "ability": data_source,
        "reward_model": {"style": "rule", "ground_truth": _answer_text(row[data.answer_field])},
        "extra_info": {"split": split, "index": index},
    }


def _messages(prompt: Any, field: str) -> list[dict[str, str]]:
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]
    messages = list(prompt) if isinstance(prompt, Sequence) else []
    if not messages or not all(
        isinstance(message, Mapping)
        and isinstance(message.get("role"), str)
        and isinstance(message.get("content"), str)
        for message in messages
    ):
        raise ValueError(f"{field!r} is neither text nor a list of messages with the texts role and content")
    return [{"role": message["role"], "content": message["content"]} for message in messages]


def _answer_text(answer: Any) -> str:
    """Text unchanged, anything else as JSON. Always text, so that files can be joined."""
    return answer if isinstance(answer, str) else json.dumps(answer, default=str)


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a .jsonl or .parquet file. Raises `ValueError` if it has another format."""
    if path.suffix == ".jsonl":
        yield from _read_jsonl(path)
        return
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches():
                yield from batch.to_pylist()
    except pyarrow.ArrowException as error:
        raise ValueError(f"cannot be read as parquet: {error}") from error


def _read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise ValueError(f"line {number} is not JSON: {error}") from error
            if not isinstance(row, dict):
                raise ValueError(f"line {number} is not a JSON object")
            yield row


def convert(
    data: DataSpec,
    split: Literal["train", "validation"],
    target: Path,
    *,
    data_source: str,
    count_tokens: CountTokens,
) -> int:
    """Write the rows of all files of a split as one VeRL parquet file. Returns how many VeRL will keep.

    Raises `JobError` with the file and row (counted from 1) of the first bad row of each file, or of the
    first overlong prompt if `data.overlong` is "error".
    """
    rows: list[dict[str, Any]] = []
    problems: list[Problem] = []
    num_kept = 0
    for place, name in enumerate(getattr(data, split)):
        path = f"spec.data.{split}[{place}]"
        number = 0
        try:
            for number, row in enumerate(read_rows(Path(name)), start=1):
                made = verl_row(row, data, index=len(rows), split=split, data_source=data_source)
                num_tokens = 0 if data.overlong == "truncate" else count_tokens(made["prompt"])
                fits = num_tokens <= data.max_prompt_tokens
                if not fits and data.overlong == "error":
                    problems.append(_overlong(path, name, number, num_tokens, data.max_prompt_tokens))
                    break
                num_kept += fits
                rows.append(made)
        except ValueError as error:
            problems.append(Problem(path=path, message=f"{name}, row {number}: {error}", remedy=_ROW_REMEDY))
    if problems:
        raise JobError(problems)
    _write(rows, target)
    return num_kept


_ROW_REMEDY = "fix the row, or set spec.data.promptField and spec.data.answerField to the file's fields"


def _overlong(path: str, name: str, number: int, num_tokens: int, limit: int) -> Problem:
    return Problem(
        path=path,
        message=f"{name}, row {number}: the prompt has {num_tokens} tokens, more than "
        f"spec.data.maxPromptTokens = {limit}",
        remedy="raise maxPromptTokens, or set spec.data.overlong to filter or truncate",
    )


def _write(rows: list[dict[str, Any]], target: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    target.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), target)

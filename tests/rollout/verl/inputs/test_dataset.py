"""A job's rows converted for VeRL, and the errors of bad ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from taper_api import JobError
from taper_api.job.spec import DataSpec
from taper_rollout.verl.inputs.dataset import convert, verl_row

CHAT = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]
SHORT_AND_LONG = [{"prompt": "a", "answer": 1}, {"prompt": "a b c d", "answer": 1}]


def row_of(row: dict[str, Any]) -> dict[str, Any]:
    data = DataSpec(train=("a.jsonl",), prompt_field="q", answer_field="a")
    return verl_row(row, data, index=3, split="train", data_source="job")


def converted(files: list[str], target: Path, **changes: Any) -> int:
    data = DataSpec(train=tuple(files), max_prompt_tokens=3, **changes)
    return convert(
        data,
        "train",
        target,
        data_source="job",
        count_tokens=lambda messages: sum(len(message["content"].split()) for message in messages),
    )


def write_jsonl(path: Path, rows: list[Any]) -> str:
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    return str(path)


def test_text_becomes_one_user_message() -> None:
    assert row_of({"q": "2+2?", "a": "4", "other": 1}) == {
        "data_source": "job",
        "prompt": [{"role": "user", "content": "2+2?"}],
        "ability": "job",
        "reward_model": {"style": "rule", "ground_truth": "4"},
        "extra_info": {"split": "train", "index": 3},
    }


def test_chat_messages_are_kept() -> None:
    assert row_of({"q": CHAT, "a": "x"})["prompt"] == CHAT


@pytest.mark.parametrize(("answer", "text"), [(4, "4"), (0.5, "0.5"), (["a", "b"], '["a", "b"]'), ("x", "x")])
def test_answers_are_one_type(answer: Any, text: str) -> None:
    assert row_of({"q": "x", "a": answer})["reward_model"]["ground_truth"] == text


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"a": "4"}, "no field 'q'; it has a"),
        ({"q": "x", "a": None}, "no field 'a'"),
        ({"q": 3, "a": "x"}, "neither text nor a list of messages"),
        ({"q": [{"role": "user"}], "a": "x"}, "neither text nor a list of messages"),
    ],
)
def test_a_bad_row_is_refused(row: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        row_of(row)


def test_jsonl_and_parquet_files_are_joined(tmp_path: Path) -> None:
    jsonl = write_jsonl(tmp_path / "a.jsonl", [{"prompt": "one two", "answer": 1}])
    parquet = tmp_path / "b.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"prompt": [CHAT], "answer": ["x"]}), parquet)
    target = tmp_path / "out" / "train.parquet"
    assert converted([jsonl, str(parquet)], target) == 2
    rows = pyarrow.parquet.read_table(target).to_pylist()
    assert [row["extra_info"]["index"] for row in rows] == [0, 1]
    assert rows[1]["prompt"] == CHAT


def test_an_overlong_prompt_is_named_by_row(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "a.jsonl", SHORT_AND_LONG)
    with pytest.raises(JobError, match=r"spec\.data\.train\[0\]: .*row 2: the prompt has 4 tokens"):
        converted([file], tmp_path / "o.parquet")


@pytest.mark.parametrize(("overlong", "kept"), [("filter", 1), ("truncate", 2)])
def test_overlong_prompts_that_verl_handles(tmp_path: Path, overlong: str, kept: int) -> None:
    file = write_jsonl(tmp_path / "a.jsonl", SHORT_AND_LONG)
    target = tmp_path / "o.parquet"
    assert converted([file], target, overlong=overlong) == kept
    assert pyarrow.parquet.read_table(target).num_rows == 2


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", "{broken", "line 1 is not JSON"),
        ("a.jsonl", "[1]", "line 1 is not a JSON object"),
        ("a.parquet", "no parquet", "cannot be read as parquet"),
    ],
)
def test_a_file_of_another_format_is_refused(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(JobError, match=message):
        converted([str(tmp_path / name)], tmp_path / "o.parquet")

import numpy as np
import pyarrow.parquet
import pytest

from taper_rollout.sample.make import VARIANTS
from taper_rollout.sample.reward import even_digits
from taper_rollout.sample.task import Task, write_prompts


@pytest.mark.parametrize(
    ("answer", "wanted", "score"),
    [
        ("2468", 4, 1.0),
        ("", 4, 0.0),
        ("1357", 4, 0.0),
        ("24", 4, 0.5),  # half as long
        ("24682468", 4, 0.5),  # twice as long
        ("2a", 2, 0.5),  # half even
        ("even digits\n", 12, 0.0),
    ],
)
def test_reward_is_the_share_of_even_digits_times_the_nearness_of_the_length(answer, wanted, score):
    assert even_digits("sample", answer, str(wanted)) == pytest.approx(score)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_right_answers_are_long_tailed(seed):
    lengths = sorted(VARIANTS["cpu"].task.draw(seed))
    assert np.quantile(lengths, 0.99) >= 5 * np.quantile(lengths, 0.5)
    assert lengths[0] >= 1 and lengths[-1] <= 300


def test_prompts_follow_from_the_seed(tmp_path):
    task = Task(num_prompts=5, median_digits=10, sigma=0.5, longest_digits=20)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_prompts(tmp_path / name, task, seed=seed)
    rows = {name: pyarrow.parquet.read_table(tmp_path / name).to_pylist() for name in "abc"}
    assert rows["a"] == rows["b"] != rows["c"]
    first = rows["a"][0]
    assert first["prompt"] == [{"role": "user", "content": f"write {first['answer']} even digits"}]

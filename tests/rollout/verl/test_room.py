"""A cluster that VeRL would wait for, for ever and without a word, is refused at once."""

from __future__ import annotations

import pytest

from taper_rollout.training_failed import TrainingFailed
from taper_rollout.verl import session


@pytest.mark.parametrize(
    ("resources", "message"),
    [
        ({"GPU": 1.0, "CPU": 64.0}, r"has 1 GPUs and the job needs 2 \(2 ranks\)"),
        ({"GPU": 2.0, "CPU": 8.0}, r"has 8 CPUs and the job needs 14"),
        ({}, r"has 0 GPUs"),
    ],
)
def test_too_small(monkeypatch: pytest.MonkeyPatch, resources: dict[str, float], message: str) -> None:
    monkeypatch.setattr(session.ray, "cluster_resources", lambda: resources)
    with pytest.raises(TrainingFailed, match=message):
        session._check_room(2)


def test_large_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session.ray, "cluster_resources", lambda: {"GPU": 2.0, "CPU": 14.0})
    session._check_room(2)

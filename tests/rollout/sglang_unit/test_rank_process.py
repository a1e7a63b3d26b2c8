"""What a rank's process sets up before SGLang."""

from __future__ import annotations

import pytest
import tqdm
import tqdm.auto

from taper_rollout.sglang import rank_process


def test_bars_that_say_they_show_are_hidden(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tqdm.tqdm, "__init__", tqdm.tqdm.__init__)  # put back afterwards
    rank_process._hide_bars()
    with tqdm.auto.tqdm(total=1, desc="loading", disable=False) as bar:
        bar.update()
    assert bar.disable
    assert capfd.readouterr().err == ""

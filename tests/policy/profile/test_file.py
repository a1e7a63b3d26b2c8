import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taper_policy.profile import file as profile_file
from taper_policy.profile.estimated import a40_14b, h100_8b
from taper_policy.profile.file import (
    check_profile,
    profile_as_json,
    profile_from_json,
    read_profile,
    write_profile,
)
from taper_policy.profile.profile import PrefillTerms, Profile, ProfileKey, SwitchTerms
from taper_policy.profile.step_surface import StepCell

KEY = ProfileKey(model="m", device="CPU", dtype="float32", versions={"sglang": "1", "torch": "2"})
amounts = st.floats(0, 10)
positive = st.floats(0.01, 1)


@st.composite
def profiles(draw: st.DrawFn) -> Profile:
    cells = tuple(
        StepCell(
            degree=degree,
            batch=batch,
            context_tokens=context,
            busy_groups=1,
            seconds=draw(positive),
            half_width_seconds=draw(amounts),
            num_samples=draw(st.integers(1, 200)),
        )
        for degree in (1, 2)
        for batch in (1, 3)
        for context in (64, 128)
    )
    prefill = st.builds(
        PrefillTerms, fixed_seconds=amounts, token_seconds=positive, relative_error_p90=amounts
    )
    switch = st.builds(
        SwitchTerms,
        fixed_seconds=positive,
        request_seconds=amounts,
        exchange_seconds=amounts,
        migrated_request_seconds=amounts,
        byte_seconds=st.floats(0, 1e-6),
        recomputed_token_seconds=amounts,
        relative_error_p90=amounts,
        most_requests=st.none() | st.integers(0, 1000),
        most_bytes=st.none() | st.integers(0, 10**15),
    )
    return Profile(
        key=replace(KEY, model=draw(st.text(min_size=1))),
        footprint=2,
        degrees=(1, 2),
        kv_bytes_per_token=draw(st.integers(1, 10**6)),
        cells=cells,
        prefill={1: draw(prefill), 2: draw(prefill)},
        switch={pair: draw(switch) for pair in draw(st.sets(st.sampled_from([(1, 2), (2, 1)])))},
        held_out_error=draw(amounts),
        held_out_cell_error=draw(amounts),
        held_out_share=draw(st.floats(0, 0.5)),
        made_at="2026-11-21T12:00:00+00:00",
    )


@given(profiles())
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, profile: Profile) -> None:
    file = tmp_path_factory.mktemp("profile") / "profile.json"
    write_profile(profile, file)
    assert read_profile(file) == profile
    assert [entry.name for entry in file.parent.iterdir()] == ["profile.json"]


@pytest.mark.parametrize("profile", [h100_8b(), a40_14b()], ids=str)
def test_estimated_profiles_stay_estimated(profile: Profile, tmp_path: Path) -> None:
    write_profile(profile, tmp_path / "p")
    assert read_profile(tmp_path / "p") == profile
    assert read_profile(tmp_path / "p").is_estimated


def test_a_file_that_cannot_be_replaced_stays_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "profile.json"
    write_profile(h100_8b(), file)

    def full(_: int) -> None:
        raise OSError("no space")

    monkeypatch.setattr(profile_file.os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        write_profile(a40_14b(), file)
    assert read_profile(file) == h100_8b()
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("kept", [0.0, 0.2, 0.5, 0.999])
def test_a_truncated_file_is_refused(tmp_path: Path, kept: float) -> None:
    file = tmp_path / "profile.json"
    write_profile(h100_8b(), file)
    whole = file.read_bytes().rstrip()
    file.write_bytes(whole[: int(len(whole) * kept)])
    with pytest.raises(ValueError, match=r"^spec\.profile: .*profile\.json is not whole JSON"):
        read_profile(file, path="spec.profile")


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"[" * 100_000])
def test_what_is_no_json_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "p").write_bytes(content)
    with pytest.raises(ValueError, match=r"^profile: .* is not whole JSON"):
        read_profile(tmp_path / "p")


Change = Callable[[dict[str, Any]], Any]


def refused(change: Change) -> str:
    document = json.loads(json.dumps(profile_as_json(h100_8b())))
    change(document)
    with pytest.raises(ValueError) as caught:
        profile_from_json(document, path="spec.profile")
    return str(caught.value)


@pytest.mark.parametrize(
    ("change", "begins"),
    [
        (lambda d: d.update(format_version=2), "format_version: 2 cannot be read; it must be 4"),
        (lambda d: d.update(format_version=2, unheard_of=1), "format_version: 2"),
        (lambda d: d.pop("format_version"), "format_version: None"),
        (lambda d: d.update(extra=1), "extra: unknown"),
        (lambda d: d.pop("footprint"), "footprint: missing"),
        (lambda d: d.update(footprint="8"), "footprint: must be a whole number, is '8'"),
        (lambda d: d.update(footprint=True), "footprint: must be a whole number"),
        (lambda d: d.update(is_estimated=0), "is_estimated: must be true or false"),
        (lambda d: d.update(is_estimated=False), "cells[0].num_samples: 0 is not 1"),
        (lambda d: d.update(cells={}), "cells: must be a list"),
        (lambda d: d.update(key=None), "key: must be an object"),
        (lambda d: d["key"].pop("device"), "key.device: missing"),
        (lambda d: d["key"].update(gpu="x"), "key.gpu: unknown"),
        (lambda d: d["key"]["versions"].update(torch=2), "key.versions.torch: must be a text"),
        (lambda d: d["cells"][5].update(seconds=-1), "cells[5].seconds: -1.0 is not"),
        (lambda d: d["cells"][5].update(seconds=0), "cells[5].seconds: 0.0 is not"),
        (lambda d: d["cells"][5].update(seconds=float("nan")), "cells[5].seconds: nan is not"),
        (lambda d: d["cells"][5].update(seconds=None), "cells[5].seconds: must be a number, is None"),
        (lambda d: d["cells"][5].update(batch=1.5), "cells[5].batch: must be a whole number"),
        (lambda d: d["cells"][5].pop("batch"), "cells[5].batch: missing"),
        (lambda d: d["cells"][5].update(note=""), "cells[5].note: unknown"),
        (lambda d: d["cells"].reverse(), "cells[1]."),
        (lambda d: d["cells"].pop(5), "cells: missing: degree 1, busy_groups 1, batch 1, context_tokens"),
        (lambda d: d["cells"][3].update(seconds=d["cells"][3]["seconds"] * 1000), "cells[3].seconds: "),
        (
            lambda d: d.update(cells=[cell for cell in d["cells"] if cell["degree"] != 4]),
            "cells: none of degree 4",
        ),
        (lambda d: d["prefill"].pop("2"), "prefill: has the degrees [1, 4, 8]"),
        (lambda d: d["prefill"].update(two={}), "prefill.two: 'two' is no degree"),
        (lambda d: d["switch"].update({"1": {}}), "switch.1: '1' is no pair"),
        (lambda d: d["switch"].update({"1->x": {}}), "switch.1->x: 'x' is no degree"),
        (lambda d: d["switch"]["1->2"].update(fixed_seconds=-1), "switch.1->2.fixed_seconds: -1.0"),
        (lambda d: d["switch"]["1->2"].update(most_bytes=1.5), "switch.1->2.most_bytes: must be a whole"),
    ],
)
def test_what_is_wrong_is_named(change: Change, begins: str) -> None:
    assert refused(change).startswith(f"spec.profile.{begins}")


@pytest.mark.parametrize("document", [None, [], 1, "x"])
def test_what_is_no_object_is_refused(document: object) -> None:
    with pytest.raises(ValueError, match=r"^profile: must be an object"):
        profile_from_json(document)


@pytest.mark.parametrize(
    ("key", "problem"),
    [
        (replace(KEY, model="n"), "p.key.model: the profile is of 'm', here it must be 'n'"),
        (replace(KEY, device="GPU"), "p.key.device: the profile is of 'CPU', here it must be 'GPU'"),
        (replace(KEY, dtype="half"), "p.key.dtype: the profile is of 'float32', here it must be 'half'"),
        (
            replace(KEY, versions={"sglang": "1", "torch": "3"}),
            "p.key.versions.torch: the profile is of '2', here it must be '3'",
        ),
        (
            replace(KEY, versions={"sglang": "1"}),
            "p.key.versions.torch: the profile is of '2', here it must be 'none'",
        ),
        (
            replace(KEY, device="GPU", versions={**KEY.versions, "x": "1"}),
            "p.key.device: the profile is of 'CPU', here it must be 'GPU'; "
            "p.key.versions.x: the profile is of 'none', here it must be '1'",
        ),
    ],
)
def test_a_profile_of_something_else_is_refused(key: ProfileKey, problem: str) -> None:
    profile = replace(
        h100_8b(),
        key=KEY,
        is_estimated=False,
        held_out_error=0.0,
        held_out_cell_error=0.0,
        cells=measured_cells(),
    )
    check_profile(profile, KEY, path="p")
    with pytest.raises(ValueError) as caught:
        check_profile(profile, key, path="p")
    assert str(caught.value) == problem


def test_an_estimated_profile_is_of_no_version() -> None:
    key = replace(h100_8b().key, versions={"sglang": "1"})
    check_profile(h100_8b(), key)
    with pytest.raises(ValueError, match=r"^profile\.key\.dtype"):
        check_profile(h100_8b(), replace(key, dtype="float32"))


def measured_cells() -> tuple[StepCell, ...]:
    return tuple(replace(cell, num_samples=12) for cell in h100_8b().cells)

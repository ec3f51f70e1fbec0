"""`pivl-distill parse`, and training with some or all maps missing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from command_line import QUICK, refuse, succeed
from pivl_distill import console
from pivl_distill.data.synthetic.cache import cached_dataset
from pivl_distill.storage.locks import locked


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """A console so wide that no table row wraps."""
    monkeypatch.setattr(console.out, "_width", 200)


@pytest.fixture
def people(tmp_path: Path) -> Path:
    """A copy of the tiny tier: 48 training images, with exact maps."""
    return Path(shutil.copytree(cached_dataset("tiny"), tmp_path / "people"))


@pytest.fixture
def photographs(people: Path) -> Path:
    """The same without synthetic.json and with its maps moved to the folder `exact`."""
    (people / "synthetic.json").unlink()
    (people / "parsing").rename(people.parent / "exact")
    return people


def test_synthetic_people_are_parsed_by_default(tmp_path: Path) -> None:
    maps = tmp_path / "maps"
    output = succeed("parse", "synthetic:tiny", "-o", maps)
    assert "maps 48 written, 0 kept from an earlier run" in output
    assert "mIoU with the data set's own maps 0." in output
    assert f"--data synthetic:tiny --parsing {maps}" in output
    assert (maps / "parsing.png").read_bytes().startswith(b"\x89PNG")
    assert "0 written, 48 kept" in succeed("parse", "synthetic:tiny", "-o", maps)
    assert "48 of 48 training images" in succeed("check", "synthetic:tiny", "--parsing", maps)
    otherwise = ("--set", "min_confidence=0.5")
    output = refuse("parse", "synthetic:tiny", "-o", maps, *otherwise)
    assert "parser min_confidence was 0.0, is 0.5" in output


def test_two_commands_cannot_write_to_one_folder(tmp_path: Path) -> None:
    maps = tmp_path / "maps"
    half = maps / ".a.png.x1.partial"
    with locked(maps / ".lock", "locked"):
        half.write_bytes(b"what the first is just writing")
        output = refuse("parse", "synthetic:tiny", "-o", maps)
        assert f"Another process is writing maps to {maps}; wait for it or stop it." in output
        assert half.is_file()
    assert "48 written" in succeed("parse", "synthetic:tiny", "-o", maps)
    assert not half.exists()
    assert not (maps / ".lock").exists()


def test_teach_and_student_train_on_parsed_maps(people: Path, tmp_path: Path) -> None:
    """With coarse classes of the embedded parser."""
    data = f"market1501:{people}"
    output = succeed("parse", data, "--set", "to=coarse6")
    assert "Classes (coarse6)" in output
    chosen = ("--data", data, "--parsing", people / "parsing-embedded")
    succeed("teach", *QUICK, *chosen, "-o", tmp_path / "teach")
    student = ("--bank", tmp_path / "teach", "-o", tmp_path / "student")
    assert "mAP" in succeed("student", *QUICK, *chosen, *student)


def test_existing_maps_are_imported(photographs: Path, tmp_path: Path) -> None:
    data, source = f"market1501:{photographs}", ("--parser", "maps", "--from", tmp_path / "exact")
    first, *_ = sorted((tmp_path / "exact" / "bounding_box_train").glob("*.png"))
    first.unlink()
    output = succeed("parse", data, *source)
    assert "maps 47 written" in output
    assert f"1 images have no map; the first is bounding_box_train/{first.stem}.jpg" in output
    written = photographs / "parsing-maps" / "bounding_box_train"
    assert len(list(written.glob("*.png"))) == 47
    output = refuse("parse", data, *source, "--set", "vocabulary=atr18", "-o", tmp_path / "atr")
    assert "in lip20, not atr18: use --set vocabulary=lip20" in output
    manifest = json.loads((photographs / "parsing-maps" / "parsing.json").read_text())
    assert (manifest["vocabulary"], manifest["maps"]) == ("lip20", 47)


def test_all_splits_option_parses_query_and_gallery(tmp_path: Path) -> None:
    output = succeed("parse", "synthetic:tiny", "-o", tmp_path / "maps", "--all-splits")
    assert "maps 102 written" in output


def test_photographs_need_a_named_parser(photographs: Path, tmp_path: Path) -> None:
    data = f"market1501:{photographs}"
    assert "embedded parser is for rendered people only" in refuse("parse", data)
    assert "did you mean 'schp_lip'" in refuse("parse", data, "--parser", "schp_lipp")
    assert "name its ONNX file with --from" in refuse("parse", data, "--parser", "schp_lip")
    missing = ("--parser", "schp_lip", "--from", tmp_path / "none.onnx")
    assert "no ONNX file" in refuse("parse", data, *missing)
    assert "did you mean 'min_area'" in refuse("parse", "synthetic:tiny", "--set", "min_areas=1")
    assert not list(photographs.glob("parsing*"))


def with_maps_missing(people: Path, share: float) -> None:
    maps = sorted((people / "parsing" / "bounding_box_train").glob("*.png"))
    for path in maps[: round(share * len(maps))]:
        path.unlink()


@pytest.mark.parametrize(("share", "missing"), [(0.0, 0), (0.5, 24), (1.0, 48)])
def test_any_share_of_the_maps_may_be_missing(
    people: Path, tmp_path: Path, share: float, missing: int
) -> None:
    with_maps_missing(people, share)
    data = ("--data", f"market1501:{people}")
    output = succeed("teach", *QUICK, *data, "-o", tmp_path / "teach")
    warning = f"{missing} training images have no parsing map"
    assert (warning in output) == (missing > 0)
    # Without any map there are no part texts: only identity texts supervise, without maps.
    supervision = ("--set", "supervision=identity") if missing == 48 else ()
    wanted = 0 if missing == 48 else missing
    student = ("student", *QUICK, *data, "--bank", tmp_path / "teach")
    output = succeed(*student, *supervision, "-o", tmp_path / "student")
    assert (warning in output) == (wanted > 0)
    for run, count in (("teach", missing), ("student", wanted)):
        assert json.loads((tmp_path / run / "run.json").read_text())["missing_maps"] == count
    checked = succeed("check", data[1])
    assert f"parsing maps {48 - missing} of 48 training images" in checked
    assert f"training images without a map {missing} {'note' if missing else 'ok'}" in checked
    if missing == 48:
        assert "The bank holds no part texts" in refuse(*student, "-o", tmp_path / "parts")


def test_a_bank_with_parts_teaches_crops_without_maps(people: Path, tmp_path: Path) -> None:
    data = ("--data", f"market1501:{people}")
    succeed("teach", *QUICK, *data, "-o", tmp_path / "teach")
    with_maps_missing(people, 1.0)
    student = ("--bank", tmp_path / "teach", "-o", tmp_path / "student")
    assert "48 training images have no" in succeed("student", *QUICK, *data, *student)
    metrics = (tmp_path / "student" / "metrics.jsonl").read_text().splitlines()
    assert all(json.loads(line)["align"] == 0 for line in metrics)


def test_a_named_folder_without_maps_of_the_data_is_an_error(people: Path, tmp_path: Path) -> None:
    shutil.copytree(people / "parsing", tmp_path / "maps")
    for path in (tmp_path / "maps").rglob("*.png"):
        path.unlink()
    named = ("--data", f"market1501:{people}", "--parsing", tmp_path / "maps")
    assert "belongs to a training image" in refuse("teach", *QUICK, *named)

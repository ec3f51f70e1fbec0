"""`pivl-distill check` and `occluded-duke`."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import Result

from command_line import run
from pivl_distill import console
from pivl_distill.app.report import NO_CAMERA_RULE, retrieval_rows
from pivl_distill.data.published_counts import PUBLISHED, PublishedCounts
from pivl_distill.retrieval import RetrievalResult

FOLDERS = ("train/1/a.jpg", "train/1/b.jpg", "query/2/a.jpg", "gallery/2/b.jpg")
DUKE = (
    *(f"bounding_box_train/0001_c{camera}_f1.jpg" for camera in (1, 2)),
    "query/0002_c1_f1.jpg",
    "bounding_box_test/0002_c2_f1.jpg",
)


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """A console so wide that no table row wraps."""
    monkeypatch.setattr(console.out, "_width", 200)


def lines(result: Result) -> list[str]:
    return [" ".join(line.split()) for line in result.output.splitlines()]


def test_check_of_crops_without_cameras(tmp_path: Path, plant) -> None:
    result = run("check", f"folders:{plant(tmp_path, FOLDERS)}")
    assert result.exit_code == 0, result.output
    output = lines(result)
    assert "train 2 1 0" in output
    assert "identities in both training and test 0 ok" in output
    assert f"cameras {NO_CAMERA_RULE}" in output
    assert "parsing maps 0 of 2 training images (0.0 %)" in output
    assert "verdict no problems" in output
    assert any(line.startswith("Checking files: 4 images") for line in output)


def test_check_fails_on_problems_and_names_the_first(tmp_path: Path, plant) -> None:
    plant(tmp_path, FOLDERS)
    (tmp_path / "query/2/a.jpg").write_bytes((tmp_path / "train/1/a.jpg").read_bytes())
    (tmp_path / "gallery/2/b.jpg").write_bytes(b"")
    result = run("check", f"folders:{tmp_path}")
    assert result.exit_code == 3, result.output
    output = lines(result)
    assert "test images also in training 1 PROBLEM query/2/a.jpg = train/1/a.jpg" in output
    assert "images that cannot be read 1 PROBLEM gallery/2/b.jpg" in output
    assert "verdict 2 problems" in output


def test_check_shows_published_counts_and_the_protocol(tmp_path: Path, plant) -> None:
    result = run("check", f"dukemtmc:{plant(tmp_path, DUKE)}")
    assert result.exit_code == 3
    output = lines(result)
    assert "train 2 1 2 16,522 702 8" in output
    assert "splits with other counts than published 3 PROBLEM train" in output
    assert "protocol 408 identities of the gallery are distractors" in output
    assert "verdict 1 problem" in output


def test_check_of_a_missing_data_set_or_map_folder_is_an_error(tmp_path: Path) -> None:
    output = run("check", "folders:nowhere")
    assert (output.exit_code, "no such folder" in output.output) == (2, True)
    output = run("check", "synthetic:tiny", "--parsing", tmp_path / "nowhere")
    assert (output.exit_code, "does not exist" in output.output) == (2, True)
    assert run("check").exit_code == 2


def test_brackets_in_file_names_are_not_markup(tmp_path: Path, plant) -> None:
    plant(tmp_path, [*FOLDERS, "train/1/[bold]x[2].jpg"])
    (tmp_path / "train/1/[bold]x[2].jpg").write_bytes(b"")
    assert any(
        "train/1/[bold]x[2].jpg" in line for line in lines(run("check", f"folders:{tmp_path}"))
    )


def test_occluded_duke_is_made_and_counted(
    tmp_path: Path, plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = {"train": (1, 1, 1), "query": (1, 1, 1), "gallery": (1, 1, 1)}
    monkeypatch.setitem(PUBLISHED, "occluded_duke", PublishedCounts(counts, ""))
    duke, lists, out = plant(tmp_path / "duke", DUKE), tmp_path / "lists", tmp_path / "out"
    lists.mkdir()
    for name, image in (("train", DUKE[0]), ("query", DUKE[3]), ("gallery", DUKE[2])):
        (lists / f"{name}.list").write_text(image.partition("/")[2])
    result = run("occluded-duke", duke, lists, out, "--link")
    assert result.exit_code == 0, result.output
    assert "gallery 1 1 1 1 1 1" in lines(result)
    assert f"folder {out}" in lines(result)
    assert run("check", f"occluded_duke:{out}").exit_code == 0
    again = run("occluded-duke", duke, lists, out)
    assert (again.exit_code, "exists already" in again.output) == (2, True)


def test_scores_without_the_camera_rule_are_marked() -> None:
    figures = (0.5, [0.5] * 10, 0.5, 3, 0)
    assert retrieval_rows(RetrievalResult(*figures, camera_rule=False))["cameras"] == NO_CAMERA_RULE
    assert "cameras" not in retrieval_rows(RetrievalResult(*figures))

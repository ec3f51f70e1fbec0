"""Published checkpoints as a user names them, on the tiny tier."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from command_line import refuse, succeed

DATA = ("--data", "synthetic:tiny")


@pytest.fixture
def file(small_reid_state, tmp_path, monkeypatch) -> str:
    torch.save(small_reid_state(cameras=6, identities=8), tmp_path / "sie_olp.pth")
    monkeypatch.chdir(tmp_path)
    return "sie_olp.pth"


def test_checkpoint_is_evaluated_on_the_named_data(file):
    assert "mAP" in succeed("evaluate", file, *DATA)
    assert "mAP" in succeed("evaluate", file, *DATA, "--camera", "mean", "--sie-coefficient", "3")
    assert "Name the data set to score sie_olp.pth on with --data" in refuse("evaluate", file)
    assert "--camera takes input, mean, or a number from 0 to 5, not '6'" in refuse(
        "evaluate", file, *DATA, "--camera", "6"
    )


def test_its_export_takes_cameras_and_is_scored_as_the_file(file):
    assert "Verified" in succeed("export", file, "-o", "out")
    manifest = json.loads(Path("out/manifest.json").read_text())
    assert manifest["input"]["cameras"] == 6
    assert manifest["source"].keys() == {"sie_olp.pth"}
    scores = [succeed("evaluate", target, *DATA).split("mAP")[1] for target in ("out", file)]
    assert scores[0] == scores[1]


def test_a_file_of_fewer_cameras_than_the_people_it_is_verified_on(small_reid_state, tmp_path):
    torch.save(small_reid_state(cameras=2, identities=8), tmp_path / "two.pth")
    assert "Verified" in succeed("export", tmp_path / "two.pth", "-o", tmp_path / "out")
    output = refuse("export", tmp_path / "two.pth", *DATA, "-o", tmp_path / "named")
    assert "has cameras 0 to 1, but these crops are from cameras 0 to" in output


def test_a_student_learns_from_its_identity_texts(file):
    output = succeed("bank", file, *DATA)
    assert "identities 8" in output
    assert "no; --base makes them" in output
    assert "mAP" in succeed("evaluate", "runs/teach-1")
    quick = ("student", "--config", "quick", "--pretrained", "none")
    assert "holds no part texts" in refuse(*quick)
    assert "mAP" in succeed(*quick, "--set", "supervision=identity")


def test_other_files_are_refused_by_what_they_lack(tmp_path):
    torch.save({"layer.weight": torch.zeros(2)}, tmp_path / "other.pth")
    output = refuse("export", tmp_path / "other.pth")
    assert "is not a CLIP-ReID checkpoint: it lacks image_encoder.conv1.weight" in output


@pytest.mark.parametrize("temperature", ["0.07", "clip"])
def test_teacher_starts_with_the_base_token_table_or_fails(small_reid_state, tmp_path, temperature):
    """The file holds no words, and no logit scale for the temperature either."""
    path = tmp_path / "reid.pth"
    torch.save(small_reid_state(identities=8), path)
    wanted = {"clip.name": "small-reid", "clip.weights": path, "data.size_hw": "[256, 128]"}
    wanted |= {"clip.base": "none", "tuning.part_temperature": temperature}
    settings = [part for key, value in wanted.items() for part in ("--set", f"{key}={value}")]
    output = refuse("teach", "--config", "quick", *settings, "-o", tmp_path / "run")
    assert "The token table of 'none' does not match the checkpoint" in output
    assert "Name the CLIP it was fine-tuned from; for CLIP-ReID that is 'openai'." in output
    assert not (tmp_path / "run").exists()


def test_a_teacher_of_ours_may_know_cameras_and_overlap_patches(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    clip = {"name": "tiny_vit", "weights": "none", "stride_px": "6", "sie_coefficient": "1.5"}
    settings = [part for key, value in clip.items() for part in ("--set", f"clip.{key}={value}")]
    succeed("teach", "--config", "quick", *settings)
    seen, mean = (
        succeed("evaluate", "runs/teach-1", "--camera", camera) for camera in ("input", "mean")
    )
    assert "mAP" in seen
    assert "mAP" in mean

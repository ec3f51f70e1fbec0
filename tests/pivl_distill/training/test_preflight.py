"""Checks before the first step: data, batches, and batch norm of single crops."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from pivl_distill.config import Stage2Settings, StudentConfig
from pivl_distill.data.records import Record, ReIDDataset
from pivl_distill.distributed import process_group
from pivl_distill.errors import PivlError, Problems
from pivl_distill.training.preflight import (
    check_batch_norm,
    check_batch_size,
    check_batches,
    check_data,
)
from small_run import SETTINGS

CPU = torch.device("cpu")


def planted(root: Path, plant, *, test_camera: int = 1) -> ReIDDataset:
    def split(name: str, pid: int, camid: int) -> tuple[Record, ...]:
        plant(root, [f"{name}/{camid}.jpg"])
        return (Record(root / name / f"{camid}.jpg", pid, camid),)

    query, gallery = split("query", 2, 0), split("gallery", 2, test_camera)
    return ReIDDataset("planted", root, split("train", 1, 0), query, gallery)


def problems_of(
    dataset: ReIDDataset,
    validation: ReIDDataset | None = None,
    supervision: str = "part",
    **data: bool,
) -> list[str]:
    problems = Problems()
    config = StudentConfig(data=data, supervision=supervision)
    check_data(dataset, validation, config, problems)
    return problems.found


def test_good_data_has_no_problems(tmp_path: Path, plant) -> None:
    assert problems_of(planted(tmp_path, plant)) == []


def test_data_that_cannot_be_scored_is_refused_with_the_flag_that_accepts_it(
    tmp_path: Path, plant
) -> None:
    dataset = planted(tmp_path, plant, test_camera=0)
    (problem,) = problems_of(dataset)
    assert "from one camera, so no query has a match" in problem
    assert problem.endswith("by adding --no-evaluation.")
    assert problems_of(dataset, evaluation=False) == []


def test_unreadable_images_are_listed_of_the_splits_that_are_used(tmp_path: Path, plant) -> None:
    dataset = planted(tmp_path, plant)
    for record in (*dataset.train, *dataset.query):
        record.path.write_bytes(b"no image")
    (problem,) = problems_of(dataset)
    assert "images that cannot be read: 2, the first is train/0.jpg" in problem
    (problem,) = problems_of(dataset, evaluation=False)
    assert "images that cannot be read: 1, the first is train/0.jpg" in problem
    held_out = ReIDDataset("held out", tmp_path, (), dataset.query, dataset.query)
    (problem,) = problems_of(dataset, held_out, evaluation=False)
    assert "images that cannot be read: 2," in problem


def test_maps_are_checked_if_they_are_used(tmp_path: Path, plant, caplog) -> None:
    dataset = planted(tmp_path, plant)
    (record,) = dataset.train
    plant(tmp_path, ["colour.png"])
    wrong = replace(dataset, train=(replace(record, parsing=tmp_path / "colour.png"),))
    (problem,) = problems_of(wrong)
    assert "maps that are not a readable single-channel 8-bit PNG: 1, the first is" in problem
    assert problems_of(wrong, supervision="identity") == []
    assert problems_of(wrong, wrong, supervision="identity") == []
    Image.fromarray(np.zeros((8, 16), np.uint8)).save(tmp_path / "turned.png")
    turned = replace(dataset, train=(replace(record, parsing=tmp_path / "turned.png"),))
    assert problems_of(turned) == []
    assert "maps whose size differs from their image: 1" in caplog.text


def batch_problems(p: int, k: int, pids: list[int], *, shuffled: bool = False) -> list[str]:
    settings = SETTINGS.model_copy(update={"identities_per_batch": p, "crops_per_identity": k})
    problems = Problems()
    check_batches("stage2", settings, np.array(pids), problems, shuffled=shuffled)
    return problems.found


@pytest.mark.parametrize(("p", "k", "pids"), [(1, 1, [1, 2]), (1, 2, [1]), (1, 1, [1])])
def test_batches_of_one_crop_are_refused(p: int, k: int, pids: list[int]) -> None:
    (problem,) = batch_problems(p, k, pids)
    assert "a batch needs at least two" in problem


def test_batches_of_at_least_two_crops_of_enough_identities_are_accepted() -> None:
    assert batch_problems(2, 1, [1, 2]) == batch_problems(1, 2, [1, 2]) == []
    (problem,) = batch_problems(3, 1, [1, 2, 2])
    assert "stage2.identities_per_batch is 3, but the training split has 2 identities" in problem
    assert batch_problems(3, 1, [1, 2, 2], shuffled=True) == []


@pytest.mark.parametrize("accumulate", [1, 3])
def test_every_process_needs_a_crop_per_micro_batch(monkeypatch, accumulate):
    settings = SETTINGS.model_copy(update={"accumulate": accumulate})
    crops = SETTINGS.identities_per_batch * SETTINGS.crops_per_identity
    monkeypatch.setattr(process_group, "world_size", lambda: crops // accumulate)
    check_batch_size(settings)
    monkeypatch.setattr(process_group, "world_size", lambda: crops // accumulate + 1)
    with pytest.raises(PivlError, match=f"cannot share a batch of {crops} crops"):
        check_batch_size(settings)


def normalised(pixels: int) -> nn.Module:
    """A network whose only batch norm is on a map of `pixels`×1 pixels."""
    pool = nn.AdaptiveAvgPool2d((pixels, 1))
    return nn.Sequential(pool, nn.BatchNorm2d(3), nn.Flatten()).eval()


@pytest.mark.parametrize(
    ("pixels", "crops", "accumulate", "refused"),
    [(1, 4, 4, True), (1, 7, 4, True), (1, 4, 2, False), (2, 4, 4, False), (1, 4, 1, False)],
)
def test_batch_norm_needs_two_values(pixels, crops, accumulate, refused) -> None:
    settings = Stage2Settings(
        identities_per_batch=crops, crops_per_identity=1, accumulate=accumulate
    )
    network = normalised(pixels)
    if not refused:
        check_batch_norm(network, (8, 4), settings, CPU)
        return
    with pytest.raises(PivlError, match=f"accumulate {accumulate} splits a batch of {crops} crops"):
        check_batch_norm(network, (8, 4), settings, CPU)


def test_networks_with_camera_embeddings_get_camera_ids() -> None:
    class WithCameras(nn.Module):
        def forward(self, images, cameras):
            assert (images.shape, cameras.tolist()) == ((1, 3, 8, 4), [0])

    settings = Stage2Settings(identities_per_batch=2, crops_per_identity=1, accumulate=2)
    check_batch_norm(WithCameras(), (8, 4), settings, CPU, cameras=2)

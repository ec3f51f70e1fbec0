"""The embeddings that `teach` leaves: of training and unlabelled crops, with the classifier."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from pivl_distill.config import HeadSettings, TeachConfig
from pivl_distill.data.datasets import load_dataset
from pivl_distill.data.store import CropStore
from pivl_distill.errors import PivlError
from pivl_distill.models.embedding import embed
from pivl_distill.runs.run import Run
from pivl_distill.training.teacher_embeddings import load_embeddings
from teachers.embedding_file import list_extra_crops, save_embedding_file
from teachers.teacher import Teacher

SIZE_HW = (128, 64)


def config_of(folder: str | None, **changes: object) -> TeachConfig:
    data = {"spec": "synthetic:tiny", "size_hw": SIZE_HW, "unlabeled": folder}
    return TeachConfig.model_validate({"data": data, "embedding_views": 2, **changes})


@pytest.fixture
def unlabeled(plant, tmp_path: Path) -> str:
    folder = plant(tmp_path / "cameras", ["one/1.jpg", "two/2.jpg", "two/3.jpg"])
    return str(folder)


@pytest.mark.parametrize("extra", [True, False])
def test_file_has_every_crop_and_the_classifier(make_clip, unlabeled, tmp_path, extra) -> None:
    dataset = load_dataset("synthetic:tiny")
    config = config_of(unlabeled if extra else None)
    clip = make_clip("tiny_rn")
    teacher = Teacher(clip, len(dataset.train_pids), HeadSettings()).eval()
    records = [*dataset.train, *list_extra_crops(config)]
    store = CropStore.load(records, SIZE_HW)
    assert len(records) == 48 + 3 * extra
    run = Run.create("teach", "", tmp_path / "run")
    model = teacher.embedding_model()
    save_embedding_file(config, model, teacher, store, records, run)
    loaded = load_embeddings(run.path / "teacher_embeddings.safetensors", records)
    crops = CropStore.load(records, SIZE_HW).crops
    expected = torch.from_numpy(embed(model, crops))
    torch.testing.assert_close(loaded.embeddings[:, 0], expected.half())
    assert loaded.views == 2
    assert loaded.projected_dim == clip.image.dim
    assert loaded.classifier is not None
    assert loaded.classifier.pids == dataset.train_pids

    def logits(embeddings: Tensor) -> Tensor:
        feature, projected = embeddings.split([clip.image.feature_dim, clip.image.dim], dim=1)
        return (teacher.neck(feature) + teacher.projected_neck(projected)) / 2

    with torch.no_grad():
        torch.testing.assert_close(loaded.logits(expected), logits(expected), rtol=1e-3, atol=1e-4)


def test_nothing_is_listed_for_a_file_that_is_not_written(unlabeled) -> None:
    assert list_extra_crops(config_of(unlabeled, embedding_views=0)) == []
    assert list_extra_crops(config_of(None)) == []


def test_camera_embeddings_exclude_crops_of_unknown_cameras(unlabeled) -> None:
    with pytest.raises(PivlError, match="cannot embed crops of unknown cameras"):
        list_extra_crops(config_of(unlabeled, clip={"sie_coefficient": 1.0}))

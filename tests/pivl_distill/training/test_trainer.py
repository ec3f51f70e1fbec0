"""One step of stage 2: the views that a student sees, and the gradient it reports."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pivl_distill.config import AugmentSettings, DistillationSettings, Stage2Settings
from pivl_distill.data.sampling import derived_rng
from pivl_distill.data.store import CropStore
from pivl_distill.models.embedding import EmbeddingModel
from pivl_distill.training.distillation import TeacherTargets
from pivl_distill.training.supervision import Supervision
from pivl_distill.training.teacher_embeddings import TeacherEmbeddings, embed_views
from pivl_distill.training.trainer import Stage2Trainer
from stubs import MapStub

BATCH = np.arange(20)[::-1].copy()
PLAIN = AugmentSettings(pad_px=5, erase_probability=0)


def pixels_of(images: Tensor) -> Tensor:
    """Return the first channel [B, H·W] of images normalised by 0.5 and 0.5, in 0..255."""
    return ((images[:, 0] / 2 + 0.5) * 255).round().flatten(1)


@pytest.fixture
def recorded(band_store: CropStore) -> tuple[TeacherEmbeddings, list[Tensor]]:
    """Embeddings of four views, and the pixels [N, H·W] of each that the teacher saw."""
    seen: list[Tensor] = []

    class Recorder(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            seen.append(pixels_of(images))
            return images.mean((2, 3))

    model = EmbeddingModel("recorder", Recorder(), (128, 64), (0.5,) * 3, (0.5,) * 3)
    return embed_views(model, band_store, 4, 5), seen


def trainer_of(store: CropStore, views: int, embeddings: TeacherEmbeddings) -> Stage2Trainer:
    distill = DistillationSettings(relation=1, embedding=0, views=views)
    targets = TeacherTargets.prepare(embeddings, distill, None, None)
    settings = Stage2Settings(augment=PLAIN)
    network = MapStub(8, 6).train()
    return Stage2Trainer(network, store, Supervision(teacher=targets, labels=False), settings)


@pytest.mark.parametrize("views", [2, 4])
def test_student_sees_the_pixels_that_the_teacher_saw(band_store, recorded, views):
    embeddings, seen = recorded
    trainer = trainer_of(band_store, views, embeddings)
    rng = np.random.default_rng(7)
    drawn = derived_rng(rng).integers(views, size=len(BATCH))
    trainer.step(BATCH, rng, 0.5)
    assert set(drawn) == set(range(views))
    expected = torch.stack([seen[view][crop] for crop, view in zip(BATCH, drawn, strict=True)])
    (images,) = trainer.network.recorded_images
    assert torch.equal(pixels_of(images), expected)


def test_with_one_view_crops_are_augmented_as_without_a_teacher(band_store, recorded):
    with_teacher = trainer_of(band_store, 1, recorded[0])
    without = Stage2Trainer(
        MapStub(8, 6).train(), band_store, Supervision(), Stage2Settings(augment=PLAIN)
    )
    for trainer in (with_teacher, without):
        trainer.step(BATCH, np.random.default_rng(7), 0.5)
    assert torch.equal(*(t.network.recorded_images[0] for t in (with_teacher, without)))


def test_without_labels_only_the_teachers_terms_train(band_store, recorded):
    trainer = trainer_of(band_store, 2, recorded[0])
    classifier = trainer.network.neck.classifier.weight.clone()
    reported = trainer.step(BATCH, np.random.default_rng(0), 0.5)
    assert reported.keys() == {"relation", "gradient_norm", "feature_spread"}
    assert torch.equal(trainer.network.neck.classifier.weight, classifier)


@pytest.mark.parametrize("limit", [None, 1e-3, 1e6])
def test_gradient_is_scaled_down_to_its_limit_and_reported_before(band_store, limit):
    settings = Stage2Settings(max_gradient_norm=limit)
    trainer = Stage2Trainer(MapStub(8, 6).train(), band_store, Supervision(), settings)
    reported = trainer.step(BATCH, np.random.default_rng(0), 0.5)["gradient_norm"]
    gradients = [p.grad for p in trainer.network.parameters() if p.grad is not None]
    actual = sum(float(g.double().square().sum()) for g in gradients) ** 0.5
    assert reported > 1e-3
    expected = min(float(reported), limit or float("inf"))
    assert actual == pytest.approx(expected, rel=1e-3)


def test_a_skipped_step_reports_no_gradient(band_store):
    settings = Stage2Settings(precision="float16")
    trainer = Stage2Trainer(MapStub(8, 6).train(), band_store, Supervision(), settings)
    trainer.network.encoder.weight.register_hook(lambda gradient: gradient * torch.inf)
    assert trainer.step(BATCH, np.random.default_rng(0), 0.5)["gradient_norm"] == 0


def test_a_gradient_that_is_not_finite_is_reported_as_such(band_store):
    trainer = Stage2Trainer(MapStub(8, 6).train(), band_store, Supervision(), Stage2Settings())
    trainer.network.encoder.weight.register_hook(lambda gradient: gradient * torch.inf)
    assert not trainer.step(BATCH, np.random.default_rng(0), 0.5)["gradient_norm"].isfinite()

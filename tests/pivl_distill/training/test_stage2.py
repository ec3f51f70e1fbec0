"""The loop of stage 2 on a stub network: losses, augmentation, metrics and batch checks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from pivl_distill.bank import PromptBank
from pivl_distill.config import (
    AugmentSettings,
    HeadSettings,
    LossSettings,
    Stage2Settings,
)
from pivl_distill.data.store import CropStore
from pivl_distill.errors import PivlError
from pivl_distill.runs.run import Run
from pivl_distill.training import compile, stage2
from pivl_distill.training.alignment import TextFeatures
from pivl_distill.training.stage2 import train
from pivl_distill.training.supervision import Supervision
from stubs import MapStub

IDENTITIES, DIM = 6, 16
SETTINGS = Stage2Settings(
    epochs=4,
    identities_per_batch=3,
    crops_per_identity=2,
    learning_rate=5e-3,
    augment=AugmentSettings(erase_probability=0.2),
)
TERMS = {"identity", "triplet", "image_to_text", "align"}
RATES = {"crops_per_s", "learning_rate", "gradient_norm", "feature_spread"}


def stub() -> MapStub:
    return MapStub(32, IDENTITIES, dim=DIM, aligns=True)


@pytest.fixture
def text_features(prompt_bank: PromptBank) -> TextFeatures:
    return TextFeatures.from_bank(prompt_bank, LossSettings(text_scale=10.0), HeadSettings())


def trained(
    store: CropStore,
    text_features: TextFeatures | None,
    folder: Path,
    seed: int = 0,
    **changes: object,
) -> tuple[MapStub, list[dict[str, float]]]:
    """Return a trained stub and the lines of its metrics."""
    network, run = stub(), Run.create("student", "", folder / "run")
    train(
        network,
        store,
        Supervision(texts=text_features),
        SETTINGS.model_copy(update=changes),
        seed,
        run,
        "Training",
    )
    lines = (run.path / "metrics.jsonl").read_text().splitlines()
    return network, [json.loads(line) for line in lines]


def test_a_network_learns_from_labels_and_texts(band_store, text_features, tmp_path):
    _, metrics = trained(band_store, text_features, tmp_path, epochs=30)
    # The triplet loss is zero from the start: plain colours are further apart than the margin.
    for term in TERMS - {"triplet"}:
        assert metrics[-1][term] < 0.7 * metrics[0][term], term
    assert metrics[-1]["accuracy"] > 0.9


def test_each_epoch_writes_one_line(band_store, text_features, tmp_path):
    network, metrics = trained(band_store, text_features, tmp_path)
    assert [line["epoch"] for line in metrics] == [1, 2, 3, 4]
    for line in metrics:
        assert line.keys() == TERMS | {"stage", "epoch", "accuracy", *RATES}
        assert line["stage"] == "reid"
        assert all(line[name] > 0 for name in RATES)
    assert not network.training


def test_without_text_features_only_label_losses_are_used(band_store, tmp_path):
    network, metrics = trained(band_store, None, tmp_path, epochs=1)
    assert metrics[0].keys() & TERMS == {"identity", "triplet"}
    untouched = stub()
    assert torch.equal(network.project.weight, untouched.project.weight)
    assert torch.equal(network.align.weight, untouched.align.weight)


def test_without_maps_nothing_is_aligned(band_store, text_features, tmp_path):
    store = CropStore(band_store.crops, None, band_store.pids, band_store.camids)
    _, metrics = trained(store, text_features, tmp_path, epochs=1)
    assert metrics[0].keys() & TERMS == TERMS - {"align"}


def test_the_same_seed_gives_the_same_weights(band_store, text_features, tmp_path):
    first, second, other = (
        trained(band_store, text_features, tmp_path / str(n), seed=seed)[0].state_dict()
        for n, seed in enumerate((5, 5, 6))
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["encoder.weight"], other["encoder.weight"])


def test_text_features_do_not_change_the_augmented_images(band_store, text_features, tmp_path):
    with_texts, _ = trained(band_store, text_features, tmp_path / "with")
    without, _ = trained(band_store, None, tmp_path / "without")
    assert len(with_texts.recorded_images) == len(without.recorded_images) > SETTINGS.epochs
    for one, other in zip(with_texts.recorded_images, without.recorded_images, strict=True):
        assert torch.equal(one, other)


def test_epochs_see_different_images(band_store, tmp_path):
    network, _ = trained(band_store, None, tmp_path, epochs=2)
    first, second = torch.cat(network.recorded_images).chunk(2)
    assert not torch.equal(first, second)


def test_padding_has_the_mean_colour(band_store, tmp_path):
    augment = AugmentSettings(pad_px=20, flip_probability=0, erase_probability=0)
    network, _ = trained(band_store, None, tmp_path, epochs=1, augment=augment)
    images = torch.cat(network.recorded_images)
    corners = images[:, :, [0, 0, -1, -1], [0, -1, 0, -1]].abs().amax(1)  # [B, 4]
    assert (corners < 0.01).any(1).float().mean() > 0.5


def test_erased_boxes_may_be_noise_and_padding_black(band_store, tmp_path):
    augment = AugmentSettings(pad_px=20, flip_probability=0, erase_probability=1, fill="noise")
    network, _ = trained(band_store, None, tmp_path, epochs=1, augment=augment)
    images = torch.cat(network.recorded_images)
    corners = images[:, :, [0, 0, -1, -1], [0, -1, 0, -1]]  # black is −1 here
    assert ((corners + 1).abs().amax(1) < 0.01).any(1).float().mean() > 0.5
    plain, _ = trained(
        band_store,
        None,
        tmp_path / "plain",
        epochs=1,
        augment=augment.model_copy(update={"fill": "mean"}),
    )
    changed = (torch.cat(plain.recorded_images) != images).any(1).float().mean((1, 2))
    assert (changed > 0.02).all()


@pytest.mark.parametrize("invented", ["ignore", "background"])
def test_padding_may_count_as_background(band_store, text_features, tmp_path, invented):
    everything = np.full_like(band_store.maps, 255)
    store = CropStore(band_store.crops, everything, band_store.pids, band_store.camids)
    augment = AugmentSettings(pad_px=40, erase_probability=0, invented=invented)
    loss = LossSettings(align_background="include")
    _, metrics = trained(store, text_features, tmp_path, epochs=1, augment=augment, loss=loss)
    assert (metrics[0]["align"] > 0) == (invented == "background")


@pytest.mark.parametrize(("epochs", "compiled"), [(3, 1), (2, 0)])
def test_a_long_run_on_a_cpu_is_compiled(band_store, tmp_path, monkeypatch, epochs, compiled):
    compiled_modules = []
    monkeypatch.setattr(stage2, "compile_body", lambda body, _device: compiled_modules.append(body))
    monkeypatch.setattr(compile, "LONG_RUN_STEPS", 12)  # of 24 crops, six at a time
    network, _ = trained(band_store, None, tmp_path, epochs=epochs)
    assert compiled_modules == [network.encoder] * compiled


def test_too_few_identities_raise(band_store, tmp_path):
    with pytest.raises(PivlError, match="identities_per_batch is 7, but the training split has 6"):
        trained(band_store, None, tmp_path, identities_per_batch=7)


def test_batch_needs_a_crop_per_micro_batch():
    with pytest.raises(ValueError, match="accumulate: 7 parts of a batch of 6 crops"):
        Stage2Settings(identities_per_batch=3, crops_per_identity=2, accumulate=7)

"""The loop of stage 2 on a stub network: what it learns, sees, decays and writes down."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pivl_distill.bank import PromptBank
from pivl_distill.config import (
    AugmentSettings,
    HeadSettings,
    LossSettings,
    Stage2Settings,
    StudentConfig,
    TeachConfig,
    load_config,
)
from pivl_distill.data.store import CropStore
from pivl_distill.distributed import process_group
from pivl_distill.errors import PivlError
from pivl_distill.losses import identity_loss, triplet_loss
from pivl_distill.models.fused_map import FusedMap
from pivl_distill.models.network import EncoderOutput, ReIDOutput
from pivl_distill.runs.run import Run
from pivl_distill.training import compile, stage2
from pivl_distill.training.alignment import TextFeatures
from pivl_distill.training.metrics import MetricAverages
from pivl_distill.training.objective import loss_terms
from pivl_distill.training.optim import make_optimizer, set_learning_rate
from pivl_distill.training.stage2 import check_batch_size, train
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
    """A stub after training and the lines of its metrics."""
    network, run = stub(), Run.create("student", "", folder / "run")
    train(network, store, text_features, SETTINGS.model_copy(update=changes), seed, run, "Training")
    lines = (run.path / "metrics.jsonl").read_text().splitlines()
    return network, [json.loads(line) for line in lines]


def test_a_network_learns_from_labels_and_texts(band_store, text_features, tmp_path):
    _, metrics = trained(band_store, text_features, tmp_path, epochs=30)
    for term in TERMS - {"triplet"}:  # people of plain colours are beyond its margin from the start
        assert metrics[-1][term] < 0.7 * metrics[0][term], term
    assert metrics[-1]["accuracy"] > 0.9


def test_each_epoch_writes_one_line(band_store, text_features, tmp_path):
    network, metrics = trained(band_store, text_features, tmp_path)
    assert [line["epoch"] for line in metrics] == [1, 2, 3, 4]
    for line in metrics:
        assert line.keys() == TERMS | {"stage", "epoch", "crops_per_s", "accuracy"}
        assert line["stage"] == "reid"
        assert line["crops_per_s"] > 0
    assert not network.training


def test_without_texts_only_the_labels_teach(band_store, tmp_path):
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


def test_texts_change_nothing_about_the_images(band_store, text_features, tmp_path):
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


def test_a_network_imitates_the_vectors_of_a_teacher(band_store, tmp_path):
    class Imitator(MapStub):
        def __init__(self) -> None:
            super().__init__(32, IDENTITIES)
            self.to_teacher = nn.Linear(32, 5)

        def forward_heads(self, encoded: EncoderOutput) -> ReIDOutput:
            output = super().forward_heads(encoded)
            distilled_embedding = self.to_teacher(output.features[0])
            return dataclasses.replace(output, distilled_embedding=distilled_embedding)

    rng = np.random.default_rng(0)
    of_person = rng.standard_normal((IDENTITIES, 5))
    rows = np.unique(band_store.pids, return_inverse=True)[1]
    store = dataclasses.replace(band_store, teacher_embeddings=of_person[rows].astype(np.float16))
    network, run = Imitator(), Run.create("student", "", tmp_path / "run")
    loss = LossSettings(identity=0, triplet=0, embedding=0.5)
    settings = SETTINGS.model_copy(update={"epochs": 30, "loss": loss})
    train(network, store, None, settings, 0, run, "Training")
    lines = (run.path / "metrics.jsonl").read_text().splitlines()
    first, last = (json.loads(lines[n])["embedding"] for n in (0, -1))
    assert last < 0.5 * first
    assert first < 0.5 * 4  # weighted


@pytest.mark.parametrize(("epochs", "compiled"), [(3, 1), (2, 0)])
def test_a_long_run_on_a_cpu_is_compiled(band_store, tmp_path, monkeypatch, epochs, compiled):
    seen = []
    monkeypatch.setattr(stage2, "compile_body", lambda body, _device: seen.append(body))
    monkeypatch.setattr(compile, "LONG_RUN_STEPS", 12)  # of 24 crops, six at a time
    network, _ = trained(band_store, None, tmp_path, epochs=epochs)
    assert seen == [network.encoder] * compiled


def test_too_few_people_are_told(band_store, tmp_path):
    with pytest.raises(PivlError, match="takes 7 identities, but the training split has 6"):
        trained(band_store, None, tmp_path, identities_per_batch=7)


def test_the_terms_are_the_weighted_losses_of_every_head(text_features, band_store):
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor([0, 0, 1, 1])
    features = tuple(torch.randn(4, dim, generator=generator) for dim in (5, 8))
    logits = tuple(torch.randn(4, IDENTITIES, generator=generator) for _ in range(2))
    projected = torch.randn(4, DIM, generator=generator)
    aligned = torch.randn(4, DIM, 16, 8, generator=generator)
    output = ReIDOutput(features, logits, projected, FusedMap(aligned))
    maps = torch.from_numpy(band_store.maps[:4])

    def terms(**weights: float) -> dict[str, Tensor]:
        return loss_terms(output, labels, maps, text_features, LossSettings(**weights))

    once = terms(identity=1, triplet=1, image_to_text=1, align=1)
    assert once.keys() == TERMS
    identity = sum(identity_loss(scores, labels, 0.1) for scores in logits)
    triplet = sum(triplet_loss(features, labels, 0.3, normalize=True) for features in features)
    torch.testing.assert_close(once["identity"], identity)
    torch.testing.assert_close(once["triplet"], triplet)
    expected = F.cross_entropy(projected @ text_features.identity.T, labels, label_smoothing=0.1)
    torch.testing.assert_close(once["image_to_text"], expected)
    weighted = terms(identity=0.25, triplet=2, image_to_text=3, align=5)
    for name, weight in {"identity": 0.25, "triplet": 2, "image_to_text": 3, "align": 5}.items():
        torch.testing.assert_close(weighted[name], weight * once[name])


def test_alignment_pulls_each_cell_to_its_own_text(text_features, band_store):
    labels = torch.tensor([0, 1, 3, 4])
    maps = torch.from_numpy(band_store.maps[:4])
    parts = maps[:, 4::8, 4::8].long()
    own = text_features.part[labels[:, None, None], parts].permute(0, 3, 1, 2)
    output = ReIDOutput((torch.eye(4),), (torch.zeros(4, 6),), None, FusedMap(own))
    perfect = loss_terms(output, labels, maps, text_features, LossSettings())
    swapped = loss_terms(output, labels.flip(0), maps, text_features, LossSettings())
    assert perfect["align"].item() == pytest.approx(0, abs=1e-5)
    assert swapped["align"].item() > 1


@pytest.mark.parametrize("distance", ["cosine", "mse", "smooth_l1"])
@pytest.mark.parametrize("labels", ["majority", "nearest", "soft"])
def test_losses_never_wait_for_a_result(text_features, band_store, distance, labels):
    """The meta device has no numbers, so whatever asked for one would fail."""
    meta = torch.device("meta")
    settings = LossSettings(align_distance=distance, align_labels=labels)
    network, totals = stub().to(meta).train(), MetricAverages()
    output = network(torch.zeros(8, 3, 128, 64, device=meta))
    people = torch.zeros(8, dtype=torch.long, device=meta)
    maps = torch.zeros(8, 128, 64, dtype=torch.uint8, device=meta)
    terms = loss_terms(output, people, maps, text_features.to(meta), settings)
    assert terms.keys() == TERMS
    torch.stack(list(terms.values())).sum().backward()
    totals.add(terms)
    assert network.encoder.weight.grad is not None


def test_weights_decay_and_biases_norms_and_frozen_parameters_do_not():
    network = stub()
    decayed, norms, biases = make_optimizer(network, SETTINGS).param_groups
    names = {id(p): name for name, p in network.named_parameters()}
    assert {names[id(p)] for p in decayed["params"]} == {
        "encoder.weight",
        "neck.classifier.weight",
        "project.weight",
        "align.weight",
    }
    assert {names[id(p)] for p in norms["params"]} == {"neck.norm.weight"}
    assert {names[id(p)] for p in biases["params"]} == {
        "encoder.bias",
        "project.bias",
        "align.bias",
    }
    assert [g["weight_decay"] for g in (decayed, norms, biases)] == [SETTINGS.weight_decay, 0, 0]


def test_everything_decays_where_it_is_asked_for():
    settings = SETTINGS.model_copy(update={"weight_decay_on": "all"})
    groups = make_optimizer(stub(), settings).param_groups
    assert [group["weight_decay"] for group in groups] == [SETTINGS.weight_decay] * 3


def test_biases_may_learn_faster():
    settings = SETTINGS.model_copy(update={"bias_lr_factor": 2.0, "warmup_epochs": 0})
    optimizer = make_optimizer(stub(), settings)
    set_learning_rate(optimizer, settings, 0.0)
    rate = settings.learning_rate
    assert [group["lr"] for group in optimizer.param_groups] == [rate, rate, 2 * rate]


@pytest.mark.parametrize(
    ("model", "changes"),
    [
        ("cnn", {"learning_rate": 3.5e-4}),
        ("vit", {"learning_rate": 5e-6, "warmup_factor": 0.1, "milestones": (30, 50)}),
    ],
)
def test_steps_are_the_rates_of_clip_reids_stage_2(golden_rates, model, changes):
    expected = golden_rates[f"stage2_{model}"]
    settings = Stage2Settings(
        lr_schedule="multistep", epochs=len(expected), warmup_epochs=10, **changes
    )
    optimizer = make_optimizer(stub(), settings)
    for inside in (0.0, 0.9):  # one rate for all of an epoch
        rates = []
        for epoch in range(settings.epochs):
            set_learning_rate(optimizer, settings, epoch + inside)
            rates.append(optimizer.param_groups[0]["lr"])
        assert rates == pytest.approx(expected, rel=1e-9, abs=0)


@pytest.mark.parametrize(
    ("preset", "section", "model"),
    [
        ("clipreid_vit", "teach", "vit"),
        ("clipreid_vit_sie_olp", "teach", "vit"),
        ("paper_vit", "teach", "vit"),
        ("clipreid_rn50", "teach", "cnn"),
        ("paper", "teach", "cnn"),
        ("table3_b_p_f", "teach", "cnn"),
        ("clipreid_rn50", "student", "cnn"),
        ("clipreid_vit", "student", "cnn"),
        ("paper", "student", "cnn"),
        ("table5_pivl", "student", "cnn"),
    ],
)
def test_presets_have_clip_reids_rates_of_stage_2(golden_rates, preset, section, model):
    kind = TeachConfig if section == "teach" else StudentConfig
    settings = load_config(kind, section, preset, {}).stage2
    optimizer, rates = make_optimizer(stub(), settings), []
    for epoch in range(settings.epochs):
        set_learning_rate(optimizer, settings, epoch)
        rates.append([group["lr"] for group in optimizer.param_groups])
    expected = golden_rates[f"stage2_{model}"]
    *weights, biases = zip(*rates, strict=True)
    for group in weights:
        assert group == pytest.approx(expected, rel=1e-9, abs=0)
    assert biases == pytest.approx([2 * rate for rate in expected], rel=1e-9, abs=0)


@pytest.mark.parametrize(
    ("epoch", "share"),
    [
        (0.0, 0.02 / 2),  # the first step is not lost
        (1.0, 1.02 / 2 * 0.5 * (1 + math.cos(math.pi / 20))),
        (2.0, 0.5 * (1 + math.cos(math.pi * 2 / 20))),
        (10.0, 0.5),
        (19.9, 0.01),  # the floor
    ],
)
def test_the_rate_warms_up_then_falls_as_a_cosine_to_its_floor(epoch, share):
    settings = SETTINGS.model_copy(
        update={"epochs": 20, "warmup_epochs": 2.0, "min_lr_ratio": 0.01}
    )
    optimizer = make_optimizer(stub(), settings)
    set_learning_rate(optimizer, settings, epoch)
    for group in optimizer.param_groups:
        assert group["lr"] == pytest.approx(settings.learning_rate * share)


def test_without_warm_up_the_first_rate_is_the_full_one():
    settings = SETTINGS.model_copy(update={"warmup_epochs": 0.0})
    optimizer = make_optimizer(stub(), settings)
    set_learning_rate(optimizer, settings, 0.0)
    assert optimizer.param_groups[0]["lr"] == settings.learning_rate


def test_a_batch_has_at_least_one_crop_for_each_part():
    with pytest.raises(ValueError, match="accumulate: 7 parts of a batch of 6 crops"):
        Stage2Settings(identities_per_batch=3, crops_per_identity=2, accumulate=7)


def test_totals_are_means_over_steps():
    totals = MetricAverages()
    for value in (1.0, 2.0, 6.0):
        totals.add({"loss": torch.tensor(value, requires_grad=True)})
    assert totals.mean() == {"loss": 3.0}


@pytest.mark.parametrize("accumulate", [1, 3])
def test_every_process_must_have_crops_in_every_part(monkeypatch, accumulate):
    settings = SETTINGS.model_copy(update={"accumulate": accumulate})
    crops = SETTINGS.identities_per_batch * SETTINGS.crops_per_identity
    monkeypatch.setattr(process_group, "world_size", lambda: crops // accumulate)
    check_batch_size(settings)
    monkeypatch.setattr(process_group, "world_size", lambda: crops // accumulate + 1)
    with pytest.raises(PivlError, match=f"cannot share a batch of {crops} crops"):
        check_batch_size(settings)

"""Dry runs: saved bytes, steps, precision, and features of mismatched dimensions."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from pivl_distill.config import DataSettings, HeadSettings, LossSettings, Stage2Settings
from pivl_distill.console import format_bytes
from pivl_distill.data.datasets import load_dataset
from pivl_distill.data.sampling import epoch_rng, pk_batches
from pivl_distill.errors import DivergenceError, PivlError
from pivl_distill.training.alignment import TextFeatures
from pivl_distill.training.dry_run import (
    SavedTensorBytes,
    describe_data,
    describe_stage2,
    describe_step,
    run_forward,
)
from pivl_distill.training.supervision import Supervision
from stubs import MapStub, PixelStub

SETTINGS = Stage2Settings(epochs=3, identities_per_batch=3, crops_per_identity=2)


@pytest.fixture
def text_features(prompt_bank) -> TextFeatures:
    return TextFeatures.from_bank(prompt_bank, LossSettings(), HeadSettings())


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_each_saved_storage_counts_once_and_parameters_do_not(device):
    layer = nn.Linear(10, 20, device=device)
    x = torch.zeros(4, 10, device=device, requires_grad=True)
    memory = SavedTensorBytes(layer)
    with memory.recording():
        y = layer(x)  # keeps x, and the weight for x's gradient
        z = y.exp()  # keeps its result
        z.square() + z.view(2, 40).cos().sum()  # keep z again, and a view of it
    assert memory.bytes == 4 * (4 * 10 + 4 * 20)


def test_meta_device_counts_the_same_bytes(text_features):
    kept = [
        run_forward(PixelStub().to(d), Supervision(texts=text_features), SETTINGS)[1]
        for d in ("cpu", "meta")
    ]
    assert kept[0] == kept[1] == 6 * 3 * 128 * 64 * 4


def test_text_features_of_another_dimension_raise(text_features):
    with pytest.raises(PivlError, match="crops have 15 dimensions, the identity texts 16"):
        run_forward(PixelStub(15), Supervision(texts=text_features), SETTINGS)


def test_steps_and_parameters_are_counted(band_store, text_features):
    rows = describe_stage2(
        PixelStub().to("meta"), band_store.pids, Supervision(texts=text_features), SETTINGS, seed=0
    )
    weights = 3 * 128 * 64 * 16 + 16
    assert rows["stage 2: parameters"] == f"{weights:,} in training, {weights:,} afterwards"
    p, k = SETTINGS.identities_per_batch, SETTINGS.crops_per_identity
    rngs = [epoch_rng(0, epoch) for epoch in range(3)]
    batches = [len(pk_batches(band_store.pids, p, k, rng)) for rng in rngs]
    first, total = batches[0], sum(batches)
    assert rows["stage 2: steps"] == f"{first} in the first of 3 epochs, {total} in all"
    assert rows["stage 2: memory"].startswith(f"at least {format_bytes(16 * weights)} of weights")
    assert "stage 2: aligned map" not in rows


@pytest.mark.parametrize(
    ("device", "precision", "expected"),
    [
        ("cpu", "auto", "float32 on this cpu"),
        ("cpu", "bfloat16", "bfloat16 on this cpu"),
        ("meta", "bfloat16", "bfloat16; the memory below assumes float32"),
    ],
)
def test_precision_is_reported(band_store, device, precision, expected):
    settings = SETTINGS.model_copy(update={"precision": precision})
    rows = describe_stage2(PixelStub().to(device), band_store.pids, Supervision(), settings, seed=0)
    assert rows["stage 2: precision"] == expected
    assert "stage 2: batch" not in rows


@pytest.mark.parametrize(("parts", "at_a_time"), [(1, 6), (2, 3), (4, 2)])
def test_micro_batches_take_less_memory(band_store, text_features, parts, at_a_time):
    settings = SETTINGS.model_copy(update={"accumulate": parts})
    kept = run_forward(PixelStub(), Supervision(texts=text_features), settings)[1]
    assert kept == at_a_time * 3 * 128 * 64 * 4
    rows = describe_stage2(
        PixelStub(), band_store.pids, Supervision(texts=text_features), settings, seed=0
    )
    assert rows["stage 2: memory"].endswith(f"activations of {at_a_time} crops")
    if parts > 1:
        assert rows["stage 2: batch"] == f"{parts} micro-batches, losses over the full batch"


def test_a_real_step_is_timed_and_trains(band_store, text_features):
    network = PixelStub()
    before = network.encoder[1].weight.clone()
    # The pids of a batch may be large; its labels are row numbers from 0.
    store = dataclasses.replace(band_store, pids=1000 + band_store.pids)
    rows = describe_step(network, store, Supervision(texts=text_features), SETTINGS)
    assert rows.keys() == {"stage 2: time"}
    assert rows["stage 2: time"].endswith(" s a step on this cpu")
    assert not torch.equal(network.encoder[1].weight, before)


def test_a_real_step_that_diverges_is_an_error(band_store):
    network = PixelStub()
    network.encoder[1].bias.data.fill_(torch.nan)
    with pytest.raises(DivergenceError, match="Stage 2 diverged in the dry run: the loss term"):
        describe_step(network, band_store, Supervision(), SETTINGS)


def test_training_split_is_described(tmp_path):
    dataset = load_dataset("synthetic:tiny")
    rows = describe_data(dataset, DataSettings(size_hw=(32, 32)), maps=True)
    assert rows["data"] == "synthetic:tiny: 48 crops of 8 identities, 3 cameras"
    assert rows["parsing maps"] == "48 of 48"
    assert rows["decoded crops"] == format_bytes(48 * 32 * 32 * 4)
    assert describe_data(dataset, DataSettings(), maps=False)["parsing maps"] == "not needed"


def test_batch_norm_of_the_heads_takes_micro_batches_of_one_crop():
    settings = SETTINGS.model_copy(
        update={"accumulate": SETTINGS.identities_per_batch * SETTINGS.crops_per_identity}
    )
    output, _ = run_forward(MapStub(8, 6), Supervision(), settings)
    assert output.logits[0].shape == (2, 6)

"""The optimizer's parameter groups and the learning rates of stage 2."""

from __future__ import annotations

import math

import pytest
import torch

from pivl_distill.config import (
    AugmentSettings,
    Stage2Settings,
    StudentConfig,
    TeachConfig,
    load_config,
)
from pivl_distill.training.optim import clip_gradients, make_optimizer, set_learning_rate
from stubs import MapStub

IDENTITIES, DIM = 6, 16
SETTINGS = Stage2Settings(
    epochs=4,
    identities_per_batch=3,
    crops_per_identity=2,
    learning_rate=5e-3,
    augment=AugmentSettings(erase_probability=0.2),
)


def stub() -> MapStub:
    return MapStub(32, IDENTITIES, dim=DIM, aligns=True)


def test_only_weights_decay_and_frozen_parameters_are_left_out():
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


def test_weight_decay_on_all_applies_to_all_groups():
    settings = SETTINGS.model_copy(update={"weight_decay_on": "all"})
    groups = make_optimizer(stub(), settings).param_groups
    assert [group["weight_decay"] for group in groups] == [SETTINGS.weight_decay] * 3


def test_bias_lr_factor_scales_the_rate_of_biases():
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
def test_multistep_equals_clip_reids_stage_2_rates(golden_rates, model, changes):
    expected = golden_rates[f"stage2_{model}"]
    settings = Stage2Settings(
        lr_schedule="multistep", epochs=len(expected), warmup_epochs=10, **changes
    )
    optimizer = make_optimizer(stub(), settings)
    for fraction in (0.0, 0.9):  # the rate is constant within an epoch
        rates = []
        for epoch in range(settings.epochs):
            set_learning_rate(optimizer, settings, epoch + fraction)
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
def test_presets_have_clip_reids_stage_2_rates(golden_rates, preset, section, model):
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
        (0.0, 0.02 / 2),  # the first step has a positive rate
        (1.0, 1.02 / 2 * 0.5 * (1 + math.cos(math.pi / 20))),
        (2.0, 0.5 * (1 + math.cos(math.pi * 2 / 20))),
        (10.0, 0.5),
        (19.9, 0.01),  # the minimum
    ],
)
def test_rate_warms_up_and_follows_a_cosine_to_its_minimum(epoch, share):
    settings = SETTINGS.model_copy(
        update={"epochs": 20, "warmup_epochs": 2.0, "min_lr_ratio": 0.01}
    )
    optimizer = make_optimizer(stub(), settings)
    set_learning_rate(optimizer, settings, epoch)
    for group in optimizer.param_groups:
        assert group["lr"] == pytest.approx(settings.learning_rate * share)


def test_without_warm_up_the_first_rate_is_the_peak_rate():
    settings = SETTINGS.model_copy(update={"warmup_epochs": 0.0})
    optimizer = make_optimizer(stub(), settings)
    set_learning_rate(optimizer, settings, 0.0)
    assert optimizer.param_groups[0]["lr"] == settings.learning_rate


@pytest.mark.parametrize(
    ("name", "kind"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)]
)
def test_weight_decay_is_decoupled_with_adamw(name, kind):
    settings = SETTINGS.model_copy(update={"optimizer": name, "weight_decay": 0.5})
    network = stub()
    optimizer = make_optimizer(network, settings)
    assert type(optimizer) is {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[name]
    set_learning_rate(optimizer, settings, 2.0)
    rate, before = optimizer.param_groups[0]["lr"], network.encoder.weight.detach().clone()
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    # Without a gradient, Adam turns the decay into a step of the learning rate.
    expected = before * (1 - 0.5 * rate) if name == "adamw" else before - rate * before.sign()
    torch.testing.assert_close(network.encoder.weight.detach(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("limit", [None, 0.5, 100.0])
def test_gradients_are_scaled_down_together(limit):
    network = stub()
    for number, parameter in enumerate(network.parameters()):
        parameter.grad = torch.full_like(parameter, 0.01 * (number + 1))
    network.project.bias.grad = None
    gradients = {n: p.grad.clone() for n, p in network.named_parameters() if p.grad is not None}
    norm = sum(float(g.square().sum()) for g in gradients.values()) ** 0.5
    assert 0.5 < norm < 100
    assert float(clip_gradients(network, limit)) == pytest.approx(norm, rel=1e-5)
    scale = 0.5 / norm if limit == 0.5 else 1.0
    for name, parameter in network.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, scale * gradients[name], rtol=1e-4, atol=0)

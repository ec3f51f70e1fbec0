"""Part classification equals plain loops; its schedule and its limited gradient."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from equation_loops import assert_same, dot, mean, norm, normal, pixels_per_cell, random_map
from pivl_distill.bank import PromptBank
from pivl_distill.config import PartClassificationSettings, Stage2Settings
from pivl_distill.data.store import CropStore
from pivl_distill.data.vocabulary import IGNORE, LIP20
from pivl_distill.training.part_classification import (
    PartTexts,
    part_classification_loss,
    pool_parts,
    scheduled_weight,
)
from pivl_distill.training.supervision import Supervision
from pivl_distill.training.trainer import Stage2Trainer
from stubs import AllOutputsStub

PARTS = len(LIP20)
SETTINGS = PartClassificationSettings(weight=2.0, temperature=0.2, schedule=(0, 0, 1, 1))


def test_texts_are_centred_over_the_identities_that_have_the_part(prompt_bank: PromptBank) -> None:
    present = torch.ones_like(prompt_bank.present)
    present[2, 5] = present[4, 5] = False
    bank = replace(prompt_bank, present=present)
    texts = PartTexts.from_bank(bank, SETTINGS)
    assert not texts.present[LIP20.background].any()
    for part in range(PARTS):
        if part == LIP20.background:
            continue
        having = [c for c in range(len(bank.pids)) if present[c, part]]
        middle = mean([bank.part[c, part] for c in having])
        for person in range(len(bank.pids)):
            assert texts.present[part, person] == present[person, part]
            text = bank.part[person, part] - middle
            expected = text / norm(text) if present[person, part] else torch.zeros_like(text)
            torch.testing.assert_close(texts.texts[part, person], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("grid_hw", [(4, 3), (8, 6), (2, 2)])
def test_pooling_is_the_mean_of_each_parts_share(grid_hw: tuple[int, int]) -> None:
    maps, final_map = random_map(), normal(3, 5, *grid_hw)
    means, areas = pool_parts(final_map, maps, 6)
    rows, expected_areas = [], []
    for image in range(3):
        cells = pixels_per_cell(maps[image], grid_hw)
        for part in range(6):
            total, area = torch.zeros(5, dtype=torch.float64), 0.0
            for (row, column), values in cells.items():
                share = values.count(part) / len(values)
                total, area = total + share * final_map[image, :, row, column], area + share
            rows.append(total / area if area else total)
            expected_areas.append(area)
    torch.testing.assert_close(means.flatten(0, 1), torch.stack(rows), rtol=0, atol=1e-6)
    torch.testing.assert_close(
        areas.flatten(), torch.tensor(expected_areas, dtype=torch.float64), rtol=0, atol=1e-6
    )


def test_invisible_parts_are_zero() -> None:
    maps = torch.full((1, 8, 6), IGNORE, dtype=torch.uint8)
    means, areas = pool_parts(normal(1, 5, 4, 3), maps, 6)
    assert not means.any()
    assert not areas.any()


def test_loss_is_the_weighted_cross_entropy_over_identities() -> None:
    batch, parts, people = 3, 4, 3
    features, raw = normal(batch, parts, 5), normal(parts, people, 5, seed=1)
    texts = torch.stack([torch.stack([t / norm(t) for t in row]) for row in raw])
    present = torch.ones(parts, people, dtype=torch.bool)
    present[0] = False  # the background
    present[2, 1] = False
    areas = torch.tensor(
        [[3.0, 0.5, 2.0, 0.0], [1.0, 0.0, 4.0, 0.2], [5.0, 1.5, 0.7, 0.9]]
    ).double()
    labels = torch.tensor([2, 1, 0])
    total, weights = torch.zeros((), dtype=torch.float64), 0.0
    for image in range(batch):
        label = int(labels[image])
        for part in range(parts):
            weight = min(float(areas[image, part]), 1.0) * bool(present[part, label])
            if not weight:
                continue
            unit = features[image, part] / norm(features[image, part])
            candidates = [c for c in range(people) if present[part, c]]
            scores = [(dot(unit, texts[part, c]) / 0.2).exp() for c in candidates]
            share = scores[candidates.index(label)] / torch.stack(scores).sum()
            total, weights = total - weight * share.log(), weights + weight
    part_texts = PartTexts(texts, present, LIP20, SETTINGS)
    loss, weight_sum = part_classification_loss(features, areas, labels, part_texts)
    assert weight_sum.item() == pytest.approx(weights)
    assert_same(loss, total / weights, features, raw)


def test_a_batch_without_visible_parts_has_no_loss() -> None:
    features = normal(2, 3, 5)
    present = torch.ones(3, 4, dtype=torch.bool)
    texts = PartTexts(normal(3, 4, 5).detach(), present, LIP20, SETTINGS)
    areas = torch.zeros(2, 3, dtype=torch.float64)
    loss, weight = part_classification_loss(features, areas, torch.tensor([0, 1]), texts)
    loss.backward()
    assert loss.item() == weight.item() == 0
    assert features.grad is not None
    assert not features.grad.any()


@pytest.mark.parametrize(
    ("schedule", "progress", "share"),
    [
        ((0.1, 0.3, 0.6, 0.8), 0.0, 0.0),
        ((0.1, 0.3, 0.6, 0.8), 0.1, 0.0),
        ((0.1, 0.3, 0.6, 0.8), 0.2, 0.5),
        ((0.1, 0.3, 0.6, 0.8), 0.5, 1.0),
        ((0.1, 0.3, 0.6, 0.8), 0.7, 0.5),
        ((0.1, 0.3, 0.6, 0.8), 0.9, 0.0),
        ((0.0, 0.0, 1.0, 1.0), 0.0, 1.0),
        ((0.0, 0.0, 1.0, 1.0), 0.99, 1.0),
        ((0.5, 0.5, 0.5, 0.5), 0.49, 0.0),
    ],
)
def test_weight_rises_and_falls(
    schedule: tuple[float, float, float, float], progress: float, share: float
) -> None:
    settings = PartClassificationSettings(weight=4.0, schedule=schedule)
    assert scheduled_weight(settings, progress) == pytest.approx(4 * share)


@pytest.mark.parametrize("schedule", [(0.3, 0.1, 0.6, 0.8), (-0.1, 0, 0, 0), (0.1, 1.2, 1.3, 1.4)])
def test_schedule_must_ascend(schedule: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="four shares in ascending order"):
        PartClassificationSettings(schedule=schedule)


def encoder_gradient(weight: float, cap: float | None, progress: float = 0.5) -> Tensor:
    """Return the gradient of a stub's convolution in a step with identity labels and parts.

    The convolution's output is the final map, so that gradients add up in both.
    """
    rng = np.random.default_rng(0)
    crops = rng.integers(0, 256, (12, 32, 16, 3), dtype=np.uint8)
    maps = rng.integers(0, PARTS, (12, 32, 16), dtype=np.uint8)
    store = CropStore(crops, maps, np.repeat(np.arange(3), 4), None)
    settings = PartClassificationSettings(weight=weight, gradient_cap=cap)
    texts = normal(PARTS, 3, 8).detach()
    present = torch.ones(PARTS, 3, dtype=torch.bool)
    supervision = Supervision(part_texts=PartTexts(texts, present, LIP20, settings))
    network = AllOutputsStub(lambda _: torch.nn.Identity(), 8, 3, 5, cap).train()
    seen: list[Tensor] = []
    network.encoder.register_forward_hook(
        lambda _module, _inputs, out: out.register_hook(seen.append) and None
    )
    trainer = Stage2Trainer(network, store, supervision, Stage2Settings())
    terms = trainer.step(np.arange(12), np.random.default_rng(0), progress)
    assert ("parts" in terms) == bool(weight and 0.05 < progress < 0.85)
    return seen[0]


@pytest.mark.parametrize("weight", [1e-3, 1.0, 1e4])
@pytest.mark.parametrize("cap", [0.01, 0.3])
def test_gradient_at_the_final_map_is_limited(weight: float, cap: float) -> None:
    others = encoder_gradient(0, cap)
    added = encoder_gradient(weight, cap) - others
    free = encoder_gradient(weight, None) - others
    limit = cap * others.norm()
    assert 0 < added.norm() <= limit * (1 + 1e-6)
    expected = free * min(1.0, float(limit / free.norm()))
    torch.testing.assert_close(added, expected, rtol=1e-5, atol=1e-9)


def test_term_is_left_out_while_its_weight_is_zero() -> None:
    assert torch.equal(encoder_gradient(1.0, 0.3, progress=0.0), encoder_gradient(0, 0.3))

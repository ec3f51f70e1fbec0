"""Eq. 7 equals plain loops; invariances of all losses. Other equations: `test_equations.py`."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from equation_loops import TEXT_INDICES
from pivl_distill.losses import (
    identity_contrastive_loss,
    part_contrastive_loss,
    triplet_loss,
)

WEIGHTINGS = ("area", "class_balanced")


def unit_rows(count: int, dim: int = 5, seed: int = 0) -> Tensor:
    rows = torch.randn(count, dim, dtype=torch.float64, generator=torch.manual_seed(seed))
    return F.normalize(rows, dim=1).requires_grad_()


def assert_same(actual: Tensor, expected: Tensor, *inputs: Tensor) -> None:
    """Assert equal values and gradients to 1e-9."""
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-9)
    gradients = (torch.autograd.grad(loss, inputs) for loss in (actual, expected))
    for ours, naive in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, naive, rtol=0, atol=1e-9)


def part_contrast_by_loops(
    cells: Tensor, texts: Tensor, text_index: Tensor, tau: float, weighting: str
) -> Tensor:
    total = cells.new_zeros(())
    for cell, text_row in enumerate(text_index.tolist()):
        positives = (text_index == text_row).nonzero().flatten().tolist()
        area, balanced = 1 / len(cells), 1 / (len(texts) * len(positives))
        to_texts = torch.stack([torch.dot(cells[cell], text) / tau for text in texts])
        to_cells = torch.stack([torch.dot(texts[text_row], other) / tau for other in cells])
        i2t = to_texts.exp().sum().log() - to_texts[text_row]
        t2i = to_cells.exp().sum().log() - to_cells[positives].mean()
        total = total + (i2t + t2i) * (area if weighting == "area" else balanced)
    return total


@pytest.mark.parametrize("text_index", TEXT_INDICES.values(), ids=TEXT_INDICES)
@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_part_contrastive_loss_is_the_sum_over_cells(text_index, weighting):
    text_index = torch.tensor(text_index)
    cells, texts = unit_rows(len(text_index)), unit_rows(int(text_index.max()) + 1, seed=1)
    expected = part_contrast_by_loops(cells, texts, text_index, 0.07, weighting)
    assert_same(
        part_contrastive_loss(cells, texts, text_index, 0.07, weighting), expected, cells, texts
    )


@pytest.mark.parametrize("text_index", TEXT_INDICES.values(), ids=TEXT_INDICES)
@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_a_row_can_represent_several_cells_or_none(text_index, weighting):
    text_index = torch.tensor(text_index)
    size = 1.0 * torch.arange(len(text_index)).roll(-1) % 3  # 1, 2, 0, 1, …
    cells, texts = unit_rows(len(text_index)).detach(), unit_rows(int(text_index.max()) + 1, seed=1)
    repeated = torch.arange(len(text_index)).repeat_interleave(size.long())
    used, renumbered = text_index[repeated].unique(return_inverse=True)
    args = renumbered, 0.07, weighting
    expected = part_contrast_by_loops(cells[repeated], texts[used], *args)
    actual = part_contrastive_loss(cells, texts, text_index, 0.07, weighting, size.double())
    assert_same(actual, expected, texts)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_scopes_are_compared_separately_and_averaged(weighting):
    """Three images of five rows; all rows of the last image represent no cell."""
    text_index = torch.tensor([[0, 0, 1, 3, 1], [2, 2, 2, 0, 1], [0, 1, 2, 3, 3]])
    size = torch.ones(3, 5, dtype=torch.float64)
    size[0, 4] = size[1, 3] = size[1, 4] = size[2] = 0
    cells, texts = unit_rows(15).detach().view(3, 5, 5), unit_rows(12, seed=1)
    total, weights = torch.zeros((), dtype=torch.float64), 0.0
    for image in range(2):
        counted = size[image] > 0
        used, renumbered = text_index[image][counted].unique(return_inverse=True)
        image_texts = texts.view(3, 4, 5)[image, used]
        weight = float(counted.sum() if weighting == "area" else len(used))
        args = cells[image][counted], image_texts, renumbered, 0.07, weighting
        total = total + weight * part_contrast_by_loops(*args)
        weights += weight
    actual = part_contrastive_loss(cells, texts.view(3, 4, 5), text_index, 0.07, weighting, size)
    assert_same(actual, total / weights, texts)


def test_weightings_agree_exactly_if_all_parts_are_equally_large():
    cells, texts = unit_rows(6), unit_rows(3, seed=1)
    equal, uneven = torch.tensor([0, 0, 1, 1, 2, 2]), torch.tensor([0, 0, 0, 0, 1, 2])
    losses = [
        part_contrastive_loss(cells, texts, equal, 0.07, weighting) for weighting in WEIGHTINGS
    ]
    torch.testing.assert_close(*losses)
    losses = [
        part_contrastive_loss(cells, texts, uneven, 0.07, weighting) for weighting in WEIGHTINGS
    ]
    assert not torch.isclose(*losses)


def test_contrastive_losses_ignore_the_order_of_the_batch():
    text_index = torch.tensor(TEXT_INDICES["uneven"])
    rows, texts = unit_rows(len(text_index)), unit_rows(3, seed=1)
    order = torch.randperm(len(text_index), generator=torch.manual_seed(2))
    for loss in (
        lambda r, o: identity_contrastive_loss(r, texts, o, 0.1),
        lambda r, o: part_contrastive_loss(r, texts, o, 0.1, "area"),
        lambda r, o: part_contrastive_loss(r, texts, o, 0.1, "class_balanced"),
    ):
        torch.testing.assert_close(loss(rows[order], text_index[order]), loss(rows, text_index))


def test_contrastive_losses_are_lowest_if_rows_equal_their_texts():
    text_index = torch.tensor([0, 0, 1, 1, 2, 2])
    texts = torch.eye(3, 5, dtype=torch.float64)
    for tau in (0.05, 0.5):
        best = identity_contrastive_loss(texts[text_index], texts, text_index, tau)
        assert best < identity_contrastive_loss(unit_rows(6), texts, text_index, tau)
        assert best < identity_contrastive_loss(texts[text_index.roll(1)], texts, text_index, tau)
        for weighting in WEIGHTINGS:
            best = part_contrastive_loss(texts[text_index], texts, text_index, tau, weighting)
            assert best < part_contrastive_loss(unit_rows(6), texts, text_index, tau, weighting)
    # Two images share each text, so that the minimum is log 2 per direction.
    loss = identity_contrastive_loss(texts[text_index], texts, text_index, 0.01)
    assert loss.item() == pytest.approx(2 * math.log(2))
    loss = part_contrastive_loss(texts[text_index], texts, text_index, 0.01, "area")
    assert loss.item() == pytest.approx(math.log(2))


def test_triplet_is_zero_beyond_the_margin_with_a_finite_gradient_at_zero_distance():
    labels = torch.tensor([0, 0, 1, 1])
    far = torch.tensor([[0.0, 1.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0]], requires_grad=True)
    assert triplet_loss(far, labels, margin=0.3, normalize=False).item() == 0
    same = torch.ones(4, 2, requires_grad=True)
    loss = triplet_loss(same, labels, margin=0.3, normalize=False)
    loss.backward()
    assert loss.item() == pytest.approx(0.3)
    assert same.grad is not None
    assert same.grad.isfinite().all()


def test_only_the_normalised_triplet_ignores_scale():
    features, labels = unit_rows(4).detach(), torch.tensor([0, 0, 1, 1])
    scales = torch.tensor([[1.0], [2.0], [3.0], [4.0]])
    args = labels, 0.3
    torch.testing.assert_close(
        triplet_loss(scales * features, *args, True), triplet_loss(features, *args, True)
    )
    assert triplet_loss(scales * features, *args, False) != triplet_loss(features, *args, False)

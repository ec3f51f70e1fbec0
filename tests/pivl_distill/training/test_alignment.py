"""Text features of stage 2 and their alignment: masks, confidence, invariances.

`test_equations.py` recomputes Eq. 6 and 11 by loops.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from equation_loops import mean, norm
from pivl_distill.config import HeadSettings, LossSettings
from pivl_distill.data.vocabulary import IGNORE, LIP20
from pivl_distill.errors import PivlError
from pivl_distill.models.fused_map import FusedMap
from pivl_distill.training.alignment import (
    TextFeatures,
    alignment_loss,
    make_hard_text_map,
    make_text_map,
)

DISTANCES = ("cosine", "mse", "smooth_l1", "contrastive")
IDENTITIES, DIM = 6, 16


def texts_of(bank, head: HeadSettings | None = None, **loss: object) -> TextFeatures:
    return TextFeatures.from_bank(bank, LossSettings(**loss), head or HeadSettings())


def test_text_scale_is_the_norm_of_identity_texts(prompt_bank):
    text_features = texts_of(prompt_bank, text_scale=7.0)
    torch.testing.assert_close(text_features.identity.norm(dim=1), torch.full((IDENTITIES,), 7.0))
    cosine = F.cosine_similarity(text_features.identity, prompt_bank.identity)
    torch.testing.assert_close(cosine, torch.ones(IDENTITIES))
    assert text_features.part is prompt_bank.part
    assert text_features.to(torch.device("cpu")).vocabulary is LIP20


def test_text_scale_clip_keeps_the_norms_of_clip(prompt_bank):
    assert torch.equal(texts_of(prompt_bank, text_scale="clip").identity, prompt_bank.identity)


def test_identity_free_background_has_one_text_for_all_identities(prompt_bank):
    bank = dataclasses.replace(prompt_bank, present=torch.zeros_like(prompt_bank.present))
    text_features = texts_of(bank, align_background="identity_free")
    background_text = bank.label[LIP20.background].expand(IDENTITIES, -1)
    assert torch.equal(text_features.part[:, LIP20.background], background_text)
    assert torch.equal(text_features.part[:, 1:], bank.part[:, 1:])
    assert text_features.present.nonzero()[:, 1].tolist() == [LIP20.background] * IDENTITIES
    assert not bank.present.any()


def test_larger_align_dim_preserves_inner_products(prompt_bank):
    wide = texts_of(prompt_bank, HeadSettings(align_dim=40))
    assert wide.part.shape == (IDENTITIES, len(LIP20), 40)
    assert wide.identity.shape == (IDENTITIES, DIM)
    before, after = (text_features.flatten(0, 1) for text_features in (prompt_bank.part, wide.part))
    torch.testing.assert_close(after @ after.T, before @ before.T, rtol=1e-4, atol=1e-4)
    again = texts_of(prompt_bank, HeadSettings(align_dim=40))
    assert torch.equal(wide.part, again.part)
    assert not wide.part.requires_grad


def test_align_dim_equal_to_the_text_dimension_changes_nothing(prompt_bank):
    assert texts_of(prompt_bank, HeadSettings(align_dim=DIM)).part is prompt_bank.part


def test_align_dim_below_the_text_dimension_is_refused(prompt_bank):
    with pytest.raises(PivlError, match=r"align_dim 15 is less than the 16 dimensions"):
        texts_of(prompt_bank, HeadSettings(align_dim=15))


def cells(*rows: list[int]) -> Tensor:
    """Return a part map uint8 [1, H, W] with cells of 8 × 8 pixels."""
    return torch.from_numpy(np.kron(np.array(rows, np.uint8), np.ones((8, 8), np.uint8))[None])


@pytest.mark.parametrize("background", ["ignore", "include", "identity_free"])
def test_a_cell_has_a_text_if_its_part_is_present(prompt_bank, background):
    hat, face, glove = (LIP20.index(label) for label in ("Hat", "Face", "Glove"))
    maps = torch.cat([cells([0, hat, IGNORE], [face, glove, 0])] * 2)
    labels = torch.tensor([1, 2])  # nobody has gloves; identity 2 has no hat
    settings = LossSettings(align_background=background)
    text_features = TextFeatures.from_bank(prompt_bank, settings, HeadSettings())
    target = make_text_map(maps, labels, (2, 3), text_features, settings)
    cells_with_text, dense = target.mask.nonzero().tolist(), target.to_dense()
    background_cells = (
        [] if background == "ignore" else [[0, 0, 0], [0, 1, 2], [1, 0, 0], [1, 1, 2]]
    )
    assert cells_with_text == sorted([[0, 0, 1], [0, 1, 0], [1, 1, 0], *background_cells])
    for image, row, column in cells_with_text:
        part = int(maps[image, 8 * row, 8 * column])
        expected = prompt_bank.part[labels[image], part]
        if part == 0 and background == "identity_free":
            expected = prompt_bank.label[0]
        torch.testing.assert_close(dense[image, :, row, column], expected)


def test_nearest_labels_a_cell_by_its_central_pixel(prompt_bank):
    hat, face = LIP20.index("Hat"), LIP20.index("Face")
    maps = torch.full((1, 9, 9), hat, dtype=torch.uint8)
    maps[0, 4, 4] = face
    for rule, part in (("majority", hat), ("nearest", face)):
        settings = LossSettings(align_labels=rule)
        text_features = TextFeatures.from_bank(prompt_bank, settings, HeadSettings())
        target = make_text_map(maps, torch.tensor([0]), (1, 1), text_features, settings)
        torch.testing.assert_close(target.to_dense().flatten(), prompt_bank.part[0, part])


@pytest.fixture
def alignment() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """aligned [3, 5, 4, 2], part texts [2, 6, 5], labels [3] and parts with unknown cells."""
    generator = torch.Generator().manual_seed(0)
    aligned = torch.randn(3, 5, 4, 2, dtype=torch.float64, generator=generator)
    text_features = torch.randn(2, 6, 5, dtype=torch.float64, generator=generator)
    parts = torch.randint(0, 6, (3, 4, 2), generator=generator)
    parts[0, 1] = IGNORE
    parts[2] = IGNORE
    return aligned.requires_grad_(), text_features, torch.tensor([1, 0, 1]), parts


@pytest.mark.parametrize("distance", ["cosine", "mse", "smooth_l1"])
def test_the_loss_is_zero_if_features_equal_their_texts(alignment, distance):
    aligned, text_features, labels, parts = alignment
    target = make_hard_text_map(text_features, labels, parts)
    perfect = text_features[labels[:, None, None], parts.where(parts != IGNORE, 0)].permute(
        0, 3, 1, 2
    )
    assert alignment_loss(FusedMap(perfect), target, distance, 0.07).item() == pytest.approx(0)
    assert alignment_loss(FusedMap(aligned), target, distance, 0.07).item() > 0.1
    doubled = alignment_loss(FusedMap(2 * perfect), target, distance, 0.07).item()
    assert (doubled == pytest.approx(0)) == (distance == "cosine")


@pytest.mark.parametrize("distance", DISTANCES)
def test_the_loss_without_a_known_cell_is_zero_with_a_zero_gradient(alignment, distance):
    aligned, text_features, labels, parts = alignment
    target = make_hard_text_map(text_features, labels, torch.full_like(parts, IGNORE))
    loss = alignment_loss(FusedMap(aligned), target, distance, 0.07)
    loss.backward()
    assert loss.item() == 0
    assert aligned.grad is not None
    assert not aligned.grad.any()


@pytest.mark.parametrize("distance", DISTANCES)
def test_unknown_cells_get_no_gradient(alignment, distance):
    aligned, text_features, labels, parts = alignment
    alignment_loss(
        FusedMap(aligned), make_hard_text_map(text_features, labels, parts), distance, 0.5
    ).backward()
    has_gradient = aligned.grad.abs().sum(1) > 0
    assert torch.equal(has_gradient, parts != IGNORE)


def test_contrastive_distance_separates_identities(alignment):
    _, text_features, labels, parts = alignment
    own_texts = text_features[labels[:, None, None], parts.where(parts != IGNORE, 0)].permute(
        0, 3, 1, 2
    )
    other_texts = text_features[1 - labels[:, None, None], parts.where(parts != IGNORE, 0)].permute(
        0, 3, 1, 2
    )
    target = make_hard_text_map(text_features, labels, parts)
    losses = [
        alignment_loss(FusedMap(maps), target, "contrastive", 0.07).item()
        for maps in (own_texts, other_texts)
    ]
    assert losses[0] < losses[1]


def test_cells_are_weighted_by_the_confidence_of_the_parser(prompt_bank):
    """The weight of a cell is the mean confidence of its pixels."""
    hat, face = LIP20.index("Hat"), LIP20.index("Face")
    maps = cells([hat, face, 0], [face, IGNORE, hat])
    confidence = torch.randint(0, 256, maps.shape, generator=torch.Generator().manual_seed(0))
    confidence = confidence.to(torch.uint8)
    settings = LossSettings(align_background="ignore")
    text_features = TextFeatures.from_bank(prompt_bank, settings, HeadSettings())
    aligned = torch.randn(1, DIM, 2, 3, generator=torch.Generator().manual_seed(1))
    errors, weights = [], []
    for row, column in ((0, 0), (0, 1), (1, 0), (1, 2)):
        part = int(maps[0, 8 * row, 8 * column])
        pair = aligned[0, :, row, column], prompt_bank.part[1, part]
        errors.append(2 - 2 * F.cosine_similarity(*pair, dim=0))
        of_cell = confidence[0, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
        weights.append(of_cell.float().mean() / 255)
    expected = sum(e * w for e, w in zip(errors, weights, strict=True)) / sum(weights)

    def loss(confidence: Tensor | None) -> Tensor:
        labels = torch.tensor([1])
        target = make_text_map(maps, labels, (2, 3), text_features, settings, confidence)
        return alignment_loss(FusedMap(aligned), target, "cosine", 0.07)

    torch.testing.assert_close(loss(confidence), expected)
    torch.testing.assert_close(loss(torch.full_like(confidence, 77)), loss(None))
    assert loss(torch.zeros_like(confidence)) == 0


@pytest.mark.parametrize("scale", [1.0, 10.0])
def test_identity_texts_may_be_centred(prompt_bank, scale):
    settings = LossSettings(centre_texts=True, text_scale=scale)
    identity = TextFeatures.from_bank(prompt_bank, settings, HeadSettings()).identity
    middle = mean(list(prompt_bank.identity))
    for row, text in zip(identity, prompt_bank.identity, strict=True):
        difference = text - middle
        torch.testing.assert_close(row, scale * difference / norm(difference))
    plain = TextFeatures.from_bank(prompt_bank, LossSettings(text_scale=scale), HeadSettings())
    part = TextFeatures.from_bank(prompt_bank, settings, HeadSettings()).part
    assert torch.equal(part, plain.part)


def test_centred_texts_need_a_scale():
    with pytest.raises(ValueError, match="set text_scale to a number"):
        LossSettings(centre_texts=True, text_scale="clip")

"""Pixel-level texts (Eq. 6) and the alignment of fused features with them (Eq. 11).

A cell of T_full (Eq. 6) is one of the P part texts of its image's identity, or a mean of them, so
it is kept as the shares that these have in it. Cells of an unknown part, of a part never seen on
the identity, or of an unwanted background have no text. Eq. 11 asks for inner products alone; they
are taken with the P texts of an image, not with one text for each cell.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from pivl_distill.bank import PromptBank
from pivl_distill.config import HeadSettings, LossSettings
from pivl_distill.data.part_maps import FULL_CONFIDENCE, cell_parts, part_shares
from pivl_distill.data.vocabulary import Vocabulary
from pivl_distill.losses import MIN_WEIGHT, part_contrastive_loss
from pivl_distill.models.fused_map import FusedMap
from pivl_distill.models.text_projection import alignment_dim, orthogonal_projection

MIN_NORM = 1e-8
"""Length from which vectors have an angle; shorter ones count as this long."""


@dataclass(frozen=True)
class TextFeatures:
    """What stage 2 takes from a bank; row c belongs to training identity c."""

    identity: Tensor
    """[C, D] classifier of Eq. 3."""
    part: Tensor
    """[C, P, A] targets of Eq. 11; A is D, or `align_dim`."""
    present: Tensor
    """bool [C, P]; cells of a part never seen on the identity have no target."""
    vocabulary: Vocabulary

    @classmethod
    def from_bank(cls, bank: PromptBank, loss: LossSettings, head: HeadSettings) -> TextFeatures:
        """The texts of a bank whose rows are in the order of the training identities."""
        identity, part, present = bank.identity, bank.part, bank.present
        if loss.text_scale != "clip":
            identity = F.normalize(identity, dim=1) * loss.text_scale
        if loss.align_background == "identity_free":
            background = bank.vocabulary.background
            part, present = part.clone(), present.clone()
            part[:, background], present[:, background] = bank.label[background], True
        if (wider := alignment_dim(bank.dim, head)) != bank.dim:
            part = part @ orthogonal_projection(bank.dim, wider)
        return cls(identity, part, present, bank.vocabulary)

    def to(self, device: torch.device) -> TextFeatures:
        """The same texts on another device."""
        return TextFeatures(
            self.identity.to(device),
            self.part.to(device),
            self.present.to(device),
            self.vocabulary,
        )


@dataclass(frozen=True)
class TextMap:
    """T_full of Eq. 6 for a batch."""

    labels: Tensor
    """[B] identities."""
    text_features: Tensor
    """[B, P, D] the part texts of each image's identity."""
    part_weights: Tensor
    """[B, P, h, w] share of each text in a cell's; they sum to 1, or to 0 where it has no text."""
    confidence: Tensor | None = None
    """[B, h, w] in 0..1, what a cell counts for; None for 1 everywhere."""

    @property
    def mask(self) -> Tensor:
        """bool [B, h, w]: cells that have a text."""
        return self.part_weights.sum(1) > 0

    @property
    def weight(self) -> Tensor:
        """[B, h, w] what each cell counts for, 0 where it has no text."""
        mask = self.mask.to(self.text_features)
        return mask if self.confidence is None else mask * self.confidence

    def to_dense(self) -> Tensor:
        """[B, D, h, w], zero where there is no text."""
        to_dense = self.text_features.mT @ self.part_weights.flatten(2)
        return to_dense.unflatten(2, self.part_weights.shape[2:])

    def squared_norms(self) -> Tensor:
        """Squared length of every cell's text, [B, h, w]."""
        part_weights = self.part_weights.flatten(2)
        squared_norms = (
            part_weights * (self.text_features @ self.text_features.mT @ part_weights)
        ).sum(1)
        return squared_norms.unflatten(1, self.part_weights.shape[2:])


def text_map(
    maps: Tensor,
    labels: Tensor,
    grid_hw: tuple[int, int],
    text_features: TextFeatures,
    settings: LossSettings,
    confidence: Tensor | None = None,
) -> TextMap:
    """The texts of a batch of maps uint8 [B, H, W] of identities `labels` [B] on a grid (Eq. 6).

    A cell's confidence is the mean of its pixels', uint8 [B, H, W].
    """
    if confidence is not None:
        sure = confidence.to(labels.device, non_blocking=True).float() / FULL_CONFIDENCE
        target = text_map(maps, labels, grid_hw, text_features, settings)
        return dataclasses.replace(target, confidence=F.adaptive_avg_pool2d(sure, grid_hw))
    count = len(text_features.vocabulary)
    wanted = text_features.present[labels]  # [B, P]
    if settings.align_background == "ignore":
        wanted = wanted.clone()
        wanted[:, text_features.vocabulary.background] = False
    if settings.align_labels == "soft":
        part_weights = part_shares(maps, grid_hw, count).to(labels.device, non_blocking=True)
        return soft_text_map(text_features.part, labels, part_weights * wanted[:, :, None, None])
    parts = cell_parts(maps, grid_hw, count, settings.align_labels)
    parts = parts.to(labels.device, non_blocking=True)
    return hard_text_map(text_features.part, labels, parts, wanted)


def hard_text_map(
    part_texts: Tensor, labels: Tensor, parts: Tensor, wanted: Tensor | None = None
) -> TextMap:
    """aggregate(·) of Eq. 6: every cell gets the text of its identity and part.

    part_texts [C, P, D], labels [B] rows of it, parts [B, h, w] part ids or IGNORE; `wanted` bool
    [B, P] leaves out parts of an image.
    """
    every_part = torch.arange(part_texts.shape[1], device=parts.device)
    part_weights = parts[:, None] == every_part[:, None, None]  # IGNORE is no part
    if wanted is not None:
        part_weights &= wanted[:, :, None, None]
    return TextMap(labels, part_texts[labels], part_weights.to(part_texts))


def soft_text_map(part_texts: Tensor, labels: Tensor, part_weights: Tensor) -> TextMap:
    """Eq. 6 with the mean of a cell's texts, weighted by `part_weights` [B, P, h, w].

    A cell has a text where its parts fill at least half of it.
    """
    part_weights = part_weights.to(part_texts)
    filled = part_weights.sum(1, keepdim=True)
    return TextMap(
        labels, part_texts[labels], part_weights / filled.clamp(min=0.5) * (2 * filled >= 1)
    )


def alignment_loss(
    aligned: FusedMap,
    target: TextMap,
    distance: Literal["cosine", "mse", "smooth_l1", "contrastive"],
    temperature: float,
) -> Tensor:
    """L_align (Eq. 11): fused features [B, D, h, w] against T_full, averaged over its cells.

    "mse" is the printed squared error, averaged over channels too; "smooth_l1" (Girshick 2015,
    threshold 1) the same but linear far away; "cosine" the squared distance of unit vectors,
    2 − 2·cos; "contrastive" Eq. 7 on unit vectors with `temperature`, weighted by area. The average
    is weighted by the confidence of the cells, if it is known. Zero when no cell has a text.
    """
    if distance == "contrastive":
        return _contrast(aligned, target, temperature)
    if distance == "smooth_l1":
        errors = F.smooth_l1_loss(aligned.to_dense(), target.to_dense(), reduction="none").mean(1)
    else:
        products = (aligned.inner_products(target.text_features) * target.part_weights).sum(
            1
        )  # [B, h, w]
        squared_norms, text_squares = aligned.squared_norms(), target.squared_norms()
        if distance == "mse":
            errors = (squared_norms - 2 * products + text_squares) / aligned.shape[1]
        else:
            length, text_length = (
                square.clamp(min=MIN_NORM**2).sqrt() for square in (squared_norms, text_squares)
            )
            errors = 2 - 2 * products / (length * text_length)
    weight = target.weight
    return (errors.where(target.mask, 0) * weight).sum() / weight.sum().clamp(min=MIN_WEIGHT)


def _contrast(aligned: FusedMap, target: TextMap, temperature: float) -> Tensor:
    """Eq. 7 between the cells that have a text and the distinct texts among them."""
    image, row, column = target.mask.nonzero(as_tuple=True)
    features = aligned.gather(image, row, column)  # [S, D]
    if len(features) == 0:
        return features.sum()
    part = target.part_weights.argmax(1)[image, row, column]
    pairs, text_index = (target.labels[image] * target.text_features.shape[1] + part).unique(
        return_inverse=True
    )
    place = torch.arange(len(text_index), device=text_index.device)
    first = torch.full_like(pairs, len(text_index)).scatter_reduce(0, text_index, place, "amin")
    text_features = target.text_features[image[first], part[first]]
    features, text_features = F.normalize(features, dim=1), F.normalize(text_features, dim=1)
    return part_contrastive_loss(features, text_features, text_index, temperature, "area")

"""Pixel-level text features (Eq. 6) and the alignment of fused features with them (Eq. 11).

A cell of T_full (Eq. 6) is one of the P part text features of its image's identity, or a mean of
them. `TextMap` therefore stores the weight of each part in each cell, not D values per cell, and
Eq. 11 computes its inner products with the P text features of an image. A cell has no text if its
part is unknown, is visible in no crop of the identity, or is the background and that is excluded.
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
"""Lower bound of a norm in a cosine."""


@dataclass(frozen=True)
class TextFeatures:
    """The text features that supervise stage 2; row c belongs to training identity c."""

    identity: Tensor
    """[C, D], the classifier of Eq. 3."""
    part: Tensor
    """[C, P, A], the targets of Eq. 11; A is `align_dim`, by default D."""
    present: Tensor
    """bool [C, P], whether a part of an identity has a target."""
    vocabulary: Vocabulary

    @classmethod
    def from_bank(cls, bank: PromptBank, loss: LossSettings, head: HeadSettings) -> TextFeatures:
        """Scale and project the features of a bank; its rows are in the order of the labels."""
        identity, part, present = bank.identity, bank.part, bank.present
        if loss.centre_texts:
            identity = centred(identity)
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
        """Return a copy on another device."""
        return TextFeatures(
            self.identity.to(device),
            self.part.to(device),
            self.present.to(device),
            self.vocabulary,
        )


def centred(texts: Tensor) -> Tensor:
    """Return texts [C, D] minus their mean over identities, at unit length."""
    return F.normalize(texts - texts.mean(0), dim=1)


@dataclass(frozen=True)
class TextMap:
    """T_full of Eq. 6 for a batch."""

    labels: Tensor
    """int64 [B], the identities."""
    text_features: Tensor
    """[B, P, D], the part text features of each image's identity."""
    part_weights: Tensor
    """[B, P, h, w], the weight of each part in a cell; their sum is 1, or 0 without a text."""
    confidence: Tensor | None = None
    """[B, h, w] in 0..1, the weight of each cell in the loss; None for 1 everywhere."""

    @property
    def mask(self) -> Tensor:
        """bool [B, h, w], whether a cell has a text."""
        return self.part_weights.sum(1) > 0

    @property
    def weight(self) -> Tensor:
        """[B, h, w], the weight of each cell in the loss; 0 without a text."""
        mask = self.mask.to(self.text_features)
        return mask if self.confidence is None else mask * self.confidence

    def to_dense(self) -> Tensor:
        """Return T_full, [B, D, h, w]; zero where a cell has no text."""
        dense = self.text_features.mT @ self.part_weights.flatten(2)
        return dense.unflatten(2, self.part_weights.shape[2:])

    def squared_norms(self) -> Tensor:
        """Return the squared norm of every cell's text features, [B, h, w]."""
        weights = self.part_weights.flatten(2)
        gram = self.text_features @ self.text_features.mT  # [B, P, P]
        norms = (weights * (gram @ weights)).sum(1)
        return norms.unflatten(1, self.part_weights.shape[2:])


def make_text_map(
    maps: Tensor,
    labels: Tensor,
    grid_hw: tuple[int, int],
    text_features: TextFeatures,
    settings: LossSettings,
    confidence: Tensor | None = None,
) -> TextMap:
    """Look up the text features of every grid cell of a batch (Eq. 6).

    Args:
        maps: parsing maps uint8 [B, H, W] of part ids or IGNORE.
        labels: identities int64 [B], rows of `text_features`.
        grid_hw: cells (h, w) of the grid.
        text_features: from the bank.
        settings: `stage2.loss`, for `align_labels` and `align_background`.
        confidence: uint8 [B, H, W] of the parser per pixel; a cell has the mean of its pixels.
    """
    if confidence is not None:
        target = make_text_map(maps, labels, grid_hw, text_features, settings)
        scaled = confidence.to(labels.device, non_blocking=True).float() / FULL_CONFIDENCE
        return dataclasses.replace(target, confidence=F.adaptive_avg_pool2d(scaled, grid_hw))
    count = len(text_features.vocabulary)
    included = text_features.present[labels]  # [B, P]
    if settings.align_background == "ignore":
        included = included.clone()
        included[:, text_features.vocabulary.background] = False
    if settings.align_labels == "soft":
        part_weights = part_shares(maps, grid_hw, count).to(labels.device, non_blocking=True)
        return make_soft_text_map(
            text_features.part, labels, part_weights * included[:, :, None, None]
        )
    parts = cell_parts(maps, grid_hw, count, settings.align_labels)
    parts = parts.to(labels.device, non_blocking=True)
    return make_hard_text_map(text_features.part, labels, parts, included)


def make_hard_text_map(
    part_features: Tensor, labels: Tensor, parts: Tensor, included: Tensor | None = None
) -> TextMap:
    """aggregate(·) of Eq. 6: every cell has the text features of its identity and part.

    `part_features` [C, P, D]; `labels` int64 [B], rows of it; `parts` [B, h, w], part ids or
    IGNORE; `included` bool [B, P], the parts of each image that get a text, by default all.
    """
    part_ids = torch.arange(part_features.shape[1], device=parts.device)
    part_weights = parts[:, None] == part_ids[:, None, None]  # IGNORE equals no part id
    if included is not None:
        part_weights &= included[:, :, None, None]
    return TextMap(labels, part_features[labels], part_weights.to(part_features))


def make_soft_text_map(part_features: Tensor, labels: Tensor, part_shares: Tensor) -> TextMap:
    """Eq. 6 with the mean of a cell's text features, weighted by the area of their parts.

    `part_shares` [B, P, h, w] is the share of a cell that each part covers. A cell has a text if
    its parts cover at least half of it.
    """
    part_shares = part_shares.to(part_features)
    covered = part_shares.sum(1, keepdim=True)
    part_weights = part_shares / covered.clamp(min=0.5) * (2 * covered >= 1)
    return TextMap(labels, part_features[labels], part_weights)


def alignment_loss(
    aligned: FusedMap,
    target: TextMap,
    distance: Literal["cosine", "mse", "smooth_l1", "contrastive"],
    temperature: float,
) -> Tensor:
    """L_align (Eq. 11): the mean distance of fused features from T_full over cells with a text.

    The mean is weighted by `target.confidence`; it is 0 if no cell has a text.

    Args:
        aligned: F of Eq. 10, [B, D, h, w].
        target: T_full of Eq. 6.
        distance: "mse" is the printed squared error, averaged over dimensions as well; "smooth_l1"
            is linear beyond 1 (Girshick 2015); "cosine" is 2 − 2·cos, the squared distance of unit
            vectors; "contrastive" is Eq. 7 on unit vectors, weighted by area.
        temperature: τ of "contrastive".
    """
    if distance == "contrastive":
        return _contrastive_distance(aligned, target, temperature)
    if distance == "smooth_l1":
        errors = F.smooth_l1_loss(aligned.to_dense(), target.to_dense(), reduction="none").mean(1)
    else:
        part_products = aligned.inner_products(target.text_features)  # [B, P, h, w]
        products = (part_products * target.part_weights).sum(1)  # [B, h, w]
        squares, text_squares = aligned.squared_norms(), target.squared_norms()
        if distance == "mse":
            errors = (squares - 2 * products + text_squares) / aligned.shape[1]
        else:
            norm, text_norm = (x.clamp(min=MIN_NORM**2).sqrt() for x in (squares, text_squares))
            errors = 2 - 2 * products / (norm * text_norm)
    weight = target.weight
    return (errors.where(target.mask, 0) * weight).sum() / weight.sum().clamp(min=MIN_WEIGHT)


def _contrastive_distance(aligned: FusedMap, target: TextMap, temperature: float) -> Tensor:
    """Compute Eq. 7 between the cells with a text and their distinct (identity, part) texts."""
    image, row, column = target.mask.nonzero(as_tuple=True)
    features = aligned.gather(image, row, column)  # [S, D]
    if len(features) == 0:
        return features.sum()
    part = target.part_weights.argmax(1)[image, row, column]
    pair = target.labels[image] * target.text_features.shape[1] + part
    pairs, text_index = pair.unique(return_inverse=True)
    cell = torch.arange(len(text_index), device=text_index.device)
    first = torch.full_like(pairs, len(text_index)).scatter_reduce(0, text_index, cell, "amin")
    text_features = target.text_features[image[first], part[first]]
    features, text_features = F.normalize(features, dim=1), F.normalize(text_features, dim=1)
    return part_contrastive_loss(features, text_features, text_index, temperature, "area")

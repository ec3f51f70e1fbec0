"""Pixel-level texts (Eq. 6) and the alignment of fused features with them (Eq. 11).

T_full of Eq. 6 is put together at the grid of the features and only where there is a text: cells of
an unknown part, of a part never seen on the identity, or of an unwanted background have none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from pivl_distill.bank import PromptBank
from pivl_distill.config import HeadSettings, LossSettings
from pivl_distill.data.parsing import cell_parts, part_shares
from pivl_distill.data.vocabulary import IGNORE, Vocabulary
from pivl_distill.fusion import aligned_dim, orthogonal_map
from pivl_distill.losses import part_contrast


@dataclass(frozen=True)
class Texts:
    """What stage 2 takes from a bank; row c belongs to training identity c."""

    identity: Tensor
    """[C, D] classifier of Eq. 3."""
    part: Tensor
    """[C, P, A] targets of Eq. 11; A is D, or `align_dim`."""
    present: Tensor
    """bool [C, P]; cells of a part never seen on the identity have no target."""
    vocabulary: Vocabulary

    @classmethod
    def of(cls, bank: PromptBank, loss: LossSettings, head: HeadSettings) -> Texts:
        """The texts of a bank whose rows are in the order of the training identities."""
        identity, part, present = bank.identity, bank.part, bank.present
        if loss.text_scale != "clip":
            identity = F.normalize(identity, dim=1) * loss.text_scale
        if loss.align_background == "identity_free":
            background = bank.vocabulary.background
            part, present = part.clone(), present.clone()
            part[:, background], present[:, background] = bank.label[background], True
        if (wider := aligned_dim(bank.dim, head)) != bank.dim:
            part = part @ orthogonal_map(bank.dim, wider)
        return cls(identity, part, present, bank.vocabulary)

    def to(self, device: torch.device) -> Texts:
        """The same texts on another device."""
        return Texts(
            self.identity.to(device),
            self.part.to(device),
            self.present.to(device),
            self.vocabulary,
        )


@dataclass(frozen=True)
class TextMap:
    """T_full of Eq. 6 at the S cells that have a text."""

    cells: tuple[Tensor, Tensor, Tensor]
    """Image, row and column of each cell, [S] each."""
    texts: Tensor
    """[S, D]."""
    pairs: Tensor | None = None
    """[S] numbers, equal where identity and part are; None where cells mix several parts."""


def text_map(
    maps: Tensor,
    labels: Tensor,
    grid_hw: tuple[int, int],
    texts: Texts,
    settings: LossSettings,
) -> TextMap:
    """The texts of a batch of maps uint8 [B, H, W] of identities `labels` [B] on a grid (Eq. 6)."""
    count = len(texts.vocabulary)
    wanted = texts.present[labels]  # [B, P]
    if settings.align_background == "ignore":
        wanted = wanted.clone()
        wanted[:, texts.vocabulary.background] = False
    if settings.align_labels == "soft":
        shares = part_shares(maps, grid_hw, count).to(labels.device)
        return mixed_texts(texts.part, labels, shares * wanted[:, :, None, None])
    parts = cell_parts(maps, grid_hw, count, settings.align_labels).to(labels.device)
    known = parts != IGNORE
    index = parts.where(known, torch.zeros_like(parts))
    known &= wanted.gather(1, index.flatten(1)).view_as(known)
    return full_texts(texts.part, labels, parts.masked_fill(~known, IGNORE))


def full_texts(part_texts: Tensor, labels: Tensor, parts: Tensor) -> TextMap:
    """aggregate(·) of Eq. 6: every cell gets the text of its identity and part.

    part_texts [C, P, D], labels [B] rows of it, parts [B, h, w] part ids or IGNORE.
    """
    image, row, column = cells = (parts != IGNORE).nonzero(as_tuple=True)
    part = parts[cells].long()
    pairs = labels[image] * part_texts.shape[1] + part
    return TextMap((image, row, column), part_texts[labels[image], part], pairs)


def mixed_texts(part_texts: Tensor, labels: Tensor, shares: Tensor) -> TextMap:
    """Eq. 6 with the mean of a cell's texts, weighted by the `shares` [B, P, h, w] of its parts.

    A cell has a text where its parts fill at least half of it.
    """
    filled = shares.sum(1)  # [B, h, w]
    image, row, column = cells = (2 * filled >= 1).nonzero(as_tuple=True)
    sums = torch.einsum("bphw,bpd->bhwd", shares.to(part_texts), part_texts[labels])
    return TextMap((image, row, column), sums[cells] / filled[cells][:, None].to(part_texts))


def alignment_loss(
    aligned: Tensor,
    target: TextMap,
    distance: Literal["cosine", "mse", "smooth_l1", "contrastive"],
    temperature: float,
) -> Tensor:
    """L_align (Eq. 11): fused features [B, D, h, w] against T_full, averaged over its cells.

    "mse" is the printed squared error, averaged over channels too; "smooth_l1" (Girshick 2015,
    threshold 1) the same but linear far away; "cosine" the squared distance of unit vectors,
    2 − 2·cos; "contrastive" Eq. 7 on unit vectors with `temperature`, weighted by area. Zero when
    no cell has a text.
    """
    image, row, column = target.cells
    if len(image) == 0:
        return aligned.sum() * 0.0
    features = aligned[image, :, row, column]  # [S, D]
    if distance == "cosine":
        return (2 - 2 * F.cosine_similarity(features, target.texts, dim=1)).mean()
    if distance == "mse":
        return F.mse_loss(features, target.texts)
    if distance == "smooth_l1":
        return F.smooth_l1_loss(features, target.texts)
    assert target.pairs is not None, "cells of several parts have no text to contrast"
    distinct, owner = target.pairs.unique(return_inverse=True)
    place = torch.arange(len(owner), device=owner.device)
    first = torch.full_like(distinct, len(owner)).scatter_reduce(0, owner, place, "amin")
    texts = target.texts[first]
    features, texts = F.normalize(features, dim=1), F.normalize(texts, dim=1)
    return part_contrast(features, texts, owner, temperature, "area")

"""The losses of π-VL and CLIP-ReID as pure functions of tensors, one function per equation.

Contrastive losses take each distinct text once with an index per row, instead of one text per row:
the values and gradients of the printed sums for a fraction of the work. Eq. 11 is in
`training/alignment.py`.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

MIN_WEIGHT = 1e-6
"""Lower bound of a sum of weights in a denominator; a mean without any weight is then 0."""
MASKED_LOGIT = -1e4
"""Added to a logit, it removes the entry from a softmax; unlike −∞ it has a finite gradient."""


def identity_contrastive_loss(
    image_features: Tensor, text_features: Tensor, text_index: Tensor, temperature: float
) -> Tensor:
    """L_stage1 = L_i2t + L_t2i over a batch (Eq. 2), supervised-contrastive as in CLIP-ReID.

    `image_features` [B, D] and `text_features` [U, D] are compared by raw dot products; normalise
    them first if needed. `text_index` int64 [B] is the row of each image's text.
    """
    i2t = i2t_contrastive_loss(image_features, text_features, text_index, temperature)
    return i2t + t2i_contrastive_loss(image_features, text_features, text_index, temperature)


def i2t_contrastive_loss(
    image_features: Tensor, text_features: Tensor, text_index: Tensor, temperature: float
) -> Tensor:
    """L_i2t of Eq. 2; arguments as in `identity_contrastive_loss`.

    The printed denominator has one text per image, so each distinct text counts once per image
    that it belongs to.
    """
    logits = image_features @ text_features.T / temperature  # [B, U]
    ones = torch.ones_like(logits[:, 0])
    # Unlike bincount, index_add needs no synchronisation with the GPU.
    log_count = torch.zeros_like(logits[0]).index_add(0, text_index, ones).log()
    loss = F.cross_entropy(logits + log_count, text_index, reduction="none")
    return (loss + log_count[text_index]).mean()


def t2i_contrastive_loss(
    image_features: Tensor, text_features: Tensor, text_index: Tensor, temperature: float
) -> Tensor:
    """L_t2i of Eq. 2, a mean over images; arguments as in `identity_contrastive_loss`."""
    logits = image_features @ text_features.T / temperature  # [B, U]
    return -logits.log_softmax(dim=0).gather(1, text_index[:, None]).mean()


def part_contrastive_loss(
    cell_features: Tensor,
    text_features: Tensor,
    text_index: Tensor,
    temperature: float,
    weighting: Literal["area", "class_balanced"],
    cell_counts: Tensor | None = None,
) -> Tensor:
    """L_part = L_part_t2i + L_part_i2t over the cells of a batch (Eq. 7, with its minus sign).

    The positives of a cell are all cells of the same identity and part. A leading dimension G on
    every tensor separates scopes: rows are compared within a scope and averaged over all of them.

    Args:
        cell_features: [S, D] or [G, S, D], grid cells of all images.
        text_features: [U, D] or [G, U, D], the distinct (identity, part) texts of the cells.
        text_index: int64 [S] or [G, S], the text of each cell.
        temperature: τ, which divides the dot products.
        weighting: "area" averages over cells, as printed; "class_balanced" averages over the cells
            of each text first, so that large parts do not outweigh small ones.
        cell_counts: [S] or [G, S], the number of cells that a row represents; 0 leaves it out.
            None means 1. Texts without cells are not used as negatives.
    """
    logits = cell_features @ text_features.mT / temperature  # [..., S, U]
    logits_over_texts = logits_over_cells = logits
    row_cells = torch.ones_like(text_index, dtype=logits.dtype)
    row_cells = row_cells if cell_counts is None else cell_counts
    text_cells = torch.zeros_like(logits[..., 0, :]).scatter_add(-1, text_index, row_cells)
    log_counts = torch.zeros_like(row_cells)
    if cell_counts is not None:
        log_counts = cell_counts.log().clamp(min=MASKED_LOGIT)
        logits_over_texts = logits.masked_fill((text_cells == 0).unsqueeze(-2), MASKED_LOGIT)
        logits_over_cells = logits + log_counts.unsqueeze(-1)
    index = text_index.unsqueeze(-1)
    i2t = logits_over_texts.log_softmax(-1).gather(-1, index).squeeze(-1)  # [..., S]
    t2i = logits_over_cells.log_softmax(-2).gather(-1, index).squeeze(-1) - log_counts
    text_weight = text_cells if weighting == "area" else (text_cells > 0).to(text_cells)
    row_weight = row_cells * (text_weight / text_cells.clamp(min=1)).gather(-1, text_index)
    return -(row_weight * (i2t + t2i)).sum() / text_weight.sum()


def identity_loss(logits: Tensor, labels: Tensor, label_smoothing: float) -> Tensor:
    """L_id of Eq. 4: label-smoothed cross-entropy (Luo et al. 2019).

    `logits` [B, C], `labels` int64 [B] the identities.
    """
    return F.cross_entropy(logits, labels, label_smoothing=label_smoothing)


def triplet_loss(features: Tensor, labels: Tensor, margin: float, normalize: bool) -> Tensor:
    """L_tri of Eq. 4: batch-hard triplet loss on features [B, F] (Hermans et al. 2017).

    The hardest positive has to be closer than the hardest negative by `margin`, in Euclidean
    distance; `normalize` compares unit vectors. `labels` int64 [B] are the identities.
    """
    if normalize:
        features = F.normalize(features, dim=1)
    distance = torch.cdist(features, features, compute_mode="donot_use_mm_for_euclid_dist")
    same = labels[:, None] == labels[None, :]
    hardest_positive = distance.masked_fill(~same, -torch.inf).amax(1)
    hardest_negative = distance.masked_fill(same, torch.inf).amin(1)
    return F.relu(hardest_positive - hardest_negative + margin).mean()


def image_to_text_loss(
    image_features: Tensor, text_features: Tensor, labels: Tensor, label_smoothing: float
) -> Tensor:
    """L_i2tce (Eq. 3): identity text features [C, D] classify projected images [B, D].

    The logits are raw dot products, the target q_k is label-smoothed, as in CLIP-ReID's code.
    """
    logits = image_features @ text_features.T
    return F.cross_entropy(logits, labels, label_smoothing=label_smoothing)

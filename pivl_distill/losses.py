"""The losses of π-VL and CLIP-ReID as pure functions of tensors, one named function per equation.

Contrastive terms take each distinct text once, with the number of rows that own it, instead of one
text per row: the same value and gradients as the printed sums for a fraction of the work. Eq. 11
is in `alignment.py`.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

MIN_WEIGHT = 1e-6
"""Weights that something is divided by are no less, so that without any the mean is 0."""
MASKED_LOGIT = -1e4
"""Added to a logit, it leaves nothing in a softmax; unlike −∞ it has a gradient."""


def identity_contrastive_loss(
    images: Tensor, text_features: Tensor, text_index: Tensor, temperature: float
) -> Tensor:
    """L_stage1 = L_i2t + L_t2i over a batch (Eq. 2), supervised-contrastive as in CLIP-ReID.

    images [B, D] and texts [U, D] are compared as they are, so normalise them first where wanted;
    owner [B] says which text is each image's own.
    """
    return i2t_contrastive_loss(
        images, text_features, text_index, temperature
    ) + t2i_contrastive_loss(images, text_features, text_index, temperature)


def i2t_contrastive_loss(
    images: Tensor, text_features: Tensor, text_index: Tensor, temperature: float
) -> Tensor:
    """L_i2t of Eq. 2; shapes as in `identity_contrastive_loss`.

    Every image brings its text along: the denominator holds each text as often as it is owned.
    """
    logits = images @ text_features.T / temperature  # [B, U]
    ones = torch.ones_like(logits[:, 0])
    count = torch.zeros_like(logits[0]).index_add(
        0, text_index, ones
    )  # bincount would make a host wait
    own = F.cross_entropy(logits + count.log(), text_index, reduction="none")
    return (own + count.log()[text_index]).mean()


def t2i_contrastive_loss(
    images: Tensor, text_features: Tensor, text_index: Tensor, temperature: float
) -> Tensor:
    """L_t2i of Eq. 2, a mean over images; shapes as in `identity_contrastive_loss`."""
    logits = images @ text_features.T / temperature  # [B, U]
    return -logits.log_softmax(dim=0).gather(1, text_index[:, None]).mean()


def part_contrastive_loss(
    cells: Tensor,
    text_features: Tensor,
    text_index: Tensor,
    temperature: float,
    weighting: Literal["area", "class_balanced"],
    size: Tensor | None = None,
) -> Tensor:
    """L_part = L_part_t2i + L_part_i2t over the cells of a batch (Eq. 7, with its minus sign).

    cells [S, D] are grid positions of all images, texts [U, D] the distinct (identity, part) texts
    among them, owner [S] the text of each cell. Positives are all cells of the same identity and
    part. "area" averages over cells, as printed; "class_balanced" averages over cells within a text
    first, so that clothes do not swamp shoes.

    A row of `cells` may stand for size [S] cells, or for none; then texts may be without cells too
    and are no negatives. A leading dimension separates scopes: cells [G, S, D], texts [G, U, D],
    owner [G, S] and size [G, S] are compared within each of G and averaged over all.
    """
    logits = cells @ text_features.mT / temperature  # [..., S, U]
    over_texts = over_cells = logits
    mass = torch.ones_like(text_index, dtype=logits.dtype) if size is None else size
    count = torch.zeros_like(logits[..., 0, :]).scatter_add(-1, text_index, mass)  # [..., U]
    log_size = torch.zeros_like(mass)
    if size is not None:
        log_size = size.log().clamp(min=MASKED_LOGIT)
        over_texts = logits.masked_fill((count == 0).unsqueeze(-2), MASKED_LOGIT)
        over_cells = logits + log_size.unsqueeze(-1)
    own = text_index.unsqueeze(-1)
    i2t = over_texts.log_softmax(-1).gather(-1, own).squeeze(-1)  # [..., S]
    t2i = over_cells.log_softmax(-2).gather(-1, own).squeeze(-1) - log_size
    weight = count if weighting == "area" else (count > 0).to(count)  # of a text
    share = mass * (weight / count.clamp(min=1)).gather(-1, text_index)  # of a row
    return -(share * (i2t + t2i)).sum() / weight.sum()


def identity_loss(logits: Tensor, labels: Tensor, label_smoothing: float) -> Tensor:
    """L_id of Eq. 4: label-smoothed cross-entropy of logits [B, C] (Luo et al. 2019)."""
    return F.cross_entropy(logits, labels, label_smoothing=label_smoothing)


def triplet_loss(features: Tensor, labels: Tensor, margin: float, normalize: bool) -> Tensor:
    """L_tri of Eq. 4: batch-hard triplet loss on Euclidean distances [B, F] (Hermans et al. 2017).

    The farthest crop of the same identity should be nearer than the nearest of another by `margin`.
    """
    if normalize:
        features = F.normalize(features, dim=1)
    distance = torch.cdist(features, features, compute_mode="donot_use_mm_for_euclid_dist")
    same = labels[:, None] == labels[None, :]
    hardest_positive = distance.masked_fill(~same, -torch.inf).amax(1)
    hardest_negative = distance.masked_fill(same, torch.inf).amin(1)
    return F.relu(hardest_positive - hardest_negative + margin).mean()


def image_to_text_loss(
    projected: Tensor, identity_texts: Tensor, labels: Tensor, label_smoothing: float
) -> Tensor:
    """L_i2tce (Eq. 3): the identity texts [C, D] as classifier of projected images [B, D].

    Raw dot products with a label-smoothed target q_k, as in CLIP-ReID's code.
    """
    return F.cross_entropy(projected @ identity_texts.T, labels, label_smoothing=label_smoothing)


def embedding_loss(features: Tensor, embeddings: Tensor) -> Tensor:
    """2 − 2·cos of features [B, F] and a teacher's vectors [B, F] of the same crops, averaged.

    Not in the paper: plain distillation, to compare its texts with (readings 26).
    """
    return (2 - 2 * F.cosine_similarity(features, embeddings, dim=1)).mean()

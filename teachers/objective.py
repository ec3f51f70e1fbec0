"""What stage 1 minimises, Eq. 8: Eq. 2 on whole crops and Eq. 7 on their cells, for one batch.

Texts are encoded once for each identity, or identity and part, of the batch, each by one process.
How Eq. 7 may be read is set in `TuningSettings`; `docs/readings.md` says which reading is whose.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pivl_distill.config import TuningSettings
from pivl_distill.data.vocabulary import IGNORE, Vocabulary
from pivl_distill.losses import identity_contrast, part_contrast
from pivl_distill.whole_batch import divided
from teachers.clip import Clip
from teachers.features import FrozenFeatures
from teachers.prompts import IdentityPrompts


def resolve_temperature(settings: TuningSettings, clip: Clip) -> TuningSettings:
    """Settings with CLIP's own temperature in place of the word "clip"."""
    if settings.part_temperature != "clip":
        return settings
    return settings.model_copy(update={"part_temperature": (-clip.logit_scale).exp().item()})


def prompt_losses(
    learned: IdentityPrompts,
    features: FrozenFeatures,
    rows: Tensor,
    batch: np.ndarray,
    settings: TuningSettings,
    vocabulary: Vocabulary,
    epoch: int,
) -> dict[str, Tensor]:
    """The terms of Eq. 8, L_prompt = L_stage1 + L_part, that `epoch` (from 0) minimises.

    The identity epochs have the first alone, the part epochs both, or the second alone if asked.
    """
    losses = {}
    tunes_parts = epoch >= settings.identity_epochs
    if not tunes_parts or settings.part_epochs_train == "both":
        losses["identity"] = identity_loss(learned, features, rows, batch, settings)
    if tunes_parts:
        losses["part"] = part_loss(learned, features, rows, batch, settings, vocabulary)
    return losses


def identity_loss(
    learned: IdentityPrompts,
    features: FrozenFeatures,
    rows: Tensor,
    batch: np.ndarray,
    settings: TuningSettings,
) -> Tensor:
    """Eq. 2 for one batch of crop indices."""
    index = torch.from_numpy(batch).to(rows.device)
    identities, owner = rows[index].unique(return_inverse=True)
    images, texts = features.projected[index], divided(learned.identity, identities)
    if settings.identity_normalize:
        images, texts = F.normalize(images, dim=1), F.normalize(texts, dim=1)
    return identity_contrast(images, texts, owner, settings.identity_temperature)


def part_loss(
    learned: IdentityPrompts,
    features: FrozenFeatures,
    rows: Tensor,
    batch: np.ndarray,
    settings: TuningSettings,
    vocabulary: Vocabulary,
) -> Tensor:
    """Eq. 7 for one batch of crop indices: cells against their distinct (identity, part) texts."""
    index = torch.from_numpy(batch).to(rows.device)
    cells, part, size = part_positions(features, index, settings, vocabulary)
    there = size > 0
    if not there.any():
        return learned.tokens.sum() * 0.0
    parts, first = len(vocabulary), rows[index][:, None] * len(vocabulary)
    pair = first + part  # [B, S]
    pairs = pair[there].unique()
    texts = similar(divided(learned.part, pairs // parts, pairs % parts), settings)  # [U, D]

    def contrast(cells: Tensor, texts: Tensor, owner: Tensor, size: Tensor | None) -> Tensor:
        temperature = settings.part_temperature
        assert temperature != "clip", "see resolve_temperature"
        return part_contrast(cells, texts, owner, temperature, settings.part_weighting, size)

    if settings.part_negatives == "batch":
        counts = size[there] if settings.part_positions == "pooled" else None
        return contrast(cells[there], texts, torch.searchsorted(pairs, pair[there]), counts)
    every_pair = first + torch.arange(parts, device=part.device)  # [B, P]
    text = torch.searchsorted(pairs, every_pair).clamp(max=len(pairs) - 1)  # any where absent
    return contrast(cells, texts[text], part, size)


def part_positions(
    features: FrozenFeatures, index: Tensor, settings: TuningSettings, vocabulary: Vocabulary
) -> tuple[Tensor, Tensor, Tensor]:
    """What Eq. 7 compares of crops `index` [B]: vectors [B, S, D], parts [B, S], cells [B, S].

    The last says for how many cells each vector stands, 0 where it takes no part.
    """
    part = features.parts[index].long()  # [B, h·w]
    known = part != IGNORE
    if settings.background == "ignore":
        known &= part != vocabulary.background
    part = part.where(known, 0)
    cells = similar(features.cells_of(index), settings)
    size = known.to(cells)
    if settings.part_positions == "cells":
        return cells, part, size
    pooled, size = pool_parts(cells, part, size, len(vocabulary))
    return similar(pooled, settings), torch.arange(len(vocabulary)).to(part).expand_as(size), size


def similar(vectors: Tensor, settings: TuningSettings) -> Tensor:
    """Vectors whose dot products are what Eq. 7 compares."""
    return F.normalize(vectors, dim=-1) if settings.part_normalize else vectors


def pool_parts(cells: Tensor, part: Tensor, size: Tensor, parts: int) -> tuple[Tensor, Tensor]:
    """The mean [B, P, D] of each part's cells [B, S, D], and their number [B, P].

    part [B, S] holds part ids, size [B, S] is 1 for cells that count and 0 for others.
    """
    member = F.one_hot(part, parts).to(cells) * size.unsqueeze(-1)  # [B, S, P]
    count = member.sum(1)
    return member.mT @ cells / count.clamp(min=1).unsqueeze(-1), count

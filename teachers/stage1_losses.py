"""What stage 1 minimises, Eq. 8: Eq. 2 on whole crops and Eq. 7 on their cells, for one batch.

Texts are encoded once for each identity, or identity and part, of the batch, each by one process.
Which these are decides shapes, so the host keeps what says it, identities and parts of cells, and
never waits for the device.

How Eq. 7 may be read is set in `TuningSettings`; `docs/readings.md` says which reading is whose.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pivl_distill.config import TuningSettings
from pivl_distill.data.batches import to_device
from pivl_distill.data.vocabulary import IGNORE, Vocabulary
from pivl_distill.distributed.collectives import apply_sharded
from pivl_distill.losses import identity_contrastive_loss, part_contrastive_loss
from teachers.clip import Clip
from teachers.image_features import ImageFeatures
from teachers.prompts import IdentityPrompts


def resolve_temperature(settings: TuningSettings, clip: Clip) -> TuningSettings:
    """Settings with CLIP's own temperature in place of the word "clip"."""
    if settings.part_temperature != "clip":
        return settings
    return settings.model_copy(update={"part_temperature": (-clip.logit_scale).exp().item()})


def prompt_losses(
    learned: IdentityPrompts,
    features: ImageFeatures,
    rows: Tensor,
    batch: np.ndarray,
    settings: TuningSettings,
    vocabulary: Vocabulary,
    epoch: int,
) -> dict[str, Tensor]:
    """The terms of Eq. 8, L_prompt = L_stage1 + L_part, that `epoch` (from 0) minimises.

    `rows` [N], on the host, number the identity of each crop from 0; `batch` [B] are crop indices.
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
    features: ImageFeatures,
    rows: Tensor,
    batch: np.ndarray,
    settings: TuningSettings,
) -> Tensor:
    """Eq. 2 for one batch of crop indices."""
    identities, owner = rows[batch].unique(return_inverse=True)
    images, texts = features.projected_of(batch), apply_sharded(learned.identity, identities)
    if settings.identity_normalize:
        images, texts = F.normalize(images, dim=1), F.normalize(texts, dim=1)
    owner = to_device(owner, images.device)
    return identity_contrastive_loss(images, texts, owner, settings.identity_temperature)


def part_loss(
    learned: IdentityPrompts,
    features: ImageFeatures,
    rows: Tensor,
    batch: np.ndarray,
    settings: TuningSettings,
    vocabulary: Vocabulary,
) -> Tensor:
    """Eq. 7 for one batch of crop indices: cells against their distinct (identity, part) texts."""
    cells, part, size = part_vectors(features, batch, settings, vocabulary)
    there = size > 0
    if not there.any():
        return learned.tokens.sum() * 0.0
    parts, first = len(vocabulary), rows[batch][:, None] * len(vocabulary)
    pair = first + part  # [B, S]
    pairs = pair[there].unique()
    texts = normalize_for_part_loss(
        apply_sharded(learned.part, pairs // parts, pairs % parts), settings
    )  # [U, D]

    def contrast(cells: Tensor, texts: Tensor, owner: Tensor, size: Tensor | None) -> Tensor:
        temperature = settings.part_temperature
        assert temperature != "clip", "see resolve_temperature"
        size = None if size is None else to_device(size, cells.device).to(cells)
        owner = to_device(owner, cells.device)
        return part_contrastive_loss(
            cells, texts, owner, temperature, settings.part_weighting, size
        )

    if settings.part_negatives == "batch":
        counts = size[there] if settings.part_positions == "pooled" else None
        places = to_device(there.flatten().nonzero().squeeze(1), cells.device)
        chosen = cells.flatten(0, 1).index_select(0, places)
        return contrast(chosen, texts, torch.searchsorted(pairs, pair[there]), counts)
    every_pair = first + torch.arange(parts, device=first.device)  # [B, P]
    text = torch.searchsorted(pairs, every_pair).clamp(max=len(pairs) - 1)  # any where absent
    return contrast(cells, texts[to_device(text, texts.device)], part, size)


def part_vectors(
    features: ImageFeatures, batch: np.ndarray, settings: TuningSettings, vocabulary: Vocabulary
) -> tuple[Tensor, Tensor, Tensor]:
    """What Eq. 7 compares of crops `batch` [B]: vectors [B, S, D], parts [B, S], cells [B, S].

    The last says for how many cells each vector stands, 0 where it takes no part. Parts and their
    cells are on the host.
    """
    part = features.parts[batch].long()  # [B, h·w]
    known = part != IGNORE
    if settings.background == "ignore":
        known &= part != vocabulary.background
    part = part.where(known, 0)
    cells = normalize_for_part_loss(features.encode_cells(batch), settings)
    if settings.part_positions == "cells":
        return cells, part, known.long()
    count = torch.zeros(len(part), len(vocabulary), dtype=torch.long, device=part.device)
    count.scatter_add_(1, part, known.long())
    pooled = pool_parts(
        cells, to_device(part, cells.device), to_device(known, cells.device), len(vocabulary)
    )
    every = torch.arange(len(vocabulary), device=part.device).expand_as(count)
    return normalize_for_part_loss(pooled, settings), every, count


def normalize_for_part_loss(vectors: Tensor, settings: TuningSettings) -> Tensor:
    """Vectors whose dot products are what Eq. 7 compares."""
    return F.normalize(vectors, dim=-1) if settings.part_normalize else vectors


def pool_parts(cells: Tensor, part: Tensor, known: Tensor, parts: int) -> Tensor:
    """The mean [B, P, D] of each part's cells [B, S, D], 0 for parts without any.

    part [B, S] holds part ids, known bool [B, S] says which cells count.
    """
    of_part = torch.arange(parts, device=part.device) == part.unsqueeze(-1)  # [B, S, P]
    member = (of_part & known.unsqueeze(-1)).to(cells)
    return member.mT @ cells / member.sum(1).clamp(min=1).unsqueeze(-1)

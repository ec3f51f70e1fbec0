"""The losses of stage 1 for one batch (Eq. 8): Eq. 2 on whole crops and Eq. 7 on their cells.

The text of each identity, or identity and part, in the batch is encoded once, on one rank.
Identities and parts of cells stay on the CPU, because shapes depend on them and reading them from
the device would synchronise.

`TuningSettings` selects between readings of Eq. 7, which `docs/readings.md` lists.
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
    """Return settings in which the temperature "clip" is 1 / CLIP's logit scale."""
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
    """Return the terms of Eq. 8, L_prompt = L_stage1 + L_part, in an epoch.

    Identity epochs have the first term, part epochs both or, if so set, the second only.

    Args:
        learned: the prompts.
        features: of all crops.
        rows: [N], on the CPU, identity of each crop in 0..C−1.
        batch: [B] crop indices.
        settings: temperature, normalisation, weights and readings of Eq. 7.
        vocabulary: of the parts.
        epoch: counted from 0.
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
    """Return Eq. 2 for one batch.

    Args:
        learned: the prompts.
        features: of all crops.
        rows: [N], on the CPU, identity of each crop in 0..C−1.
        batch: [B] crop indices.
        settings: temperature and normalisation.
    """
    identities, owner = rows[batch].unique(return_inverse=True)
    images, texts = features.batch_projected(batch), apply_sharded(learned.identity, identities)
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
    """Return Eq. 7 for one batch: cells against the texts of their identities and parts.

    The parameters are those of `prompt_losses`. Returns 0 (with a gradient) if no cell has a part.
    """
    cells, part, size = part_vectors(features, batch, settings, vocabulary)
    valid = size > 0
    if not valid.any():
        return learned.tokens.sum() * 0.0
    parts, first = len(vocabulary), rows[batch][:, None] * len(vocabulary)
    pair = first + part  # [B, S]
    pairs = pair[valid].unique()
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
        counts = size[valid] if settings.part_positions == "pooled" else None
        indices = to_device(valid.flatten().nonzero().squeeze(1), cells.device)
        chosen = cells.flatten(0, 1).index_select(0, indices)
        return contrast(chosen, texts, torch.searchsorted(pairs, pair[valid]), counts)
    every_pair = first + torch.arange(parts, device=first.device)  # [B, P]
    text = torch.searchsorted(pairs, every_pair).clamp(
        max=len(pairs) - 1
    )  # absent pairs have any index
    return contrast(cells, texts[to_device(text, texts.device)], part, size)


def part_vectors(
    features: ImageFeatures, batch: np.ndarray, settings: TuningSettings, vocabulary: Vocabulary
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the vectors [B, S, D] of crops `batch` [B] in Eq. 7, their parts and sizes [B, S].

    The size is the number of cells that a vector represents; vectors of size 0 are ignored. Parts
    and sizes are on the CPU.
    """
    part = features.parts[batch].long()  # [B, h·w]
    known = part != IGNORE
    if settings.background == "ignore":
        known &= part != vocabulary.background
    part = part.where(known, 0)
    cells = normalize_for_part_loss(features.batch_cells(batch), settings)
    if settings.part_positions == "cells":
        return cells, part, known.long()
    count = torch.zeros(len(part), len(vocabulary), dtype=torch.long, device=part.device)
    count.scatter_add_(1, part, known.long())
    pooled = pool_parts(
        cells, to_device(part, cells.device), to_device(known, cells.device), len(vocabulary)
    )
    all_parts = torch.arange(len(vocabulary), device=part.device).expand_as(count)
    return normalize_for_part_loss(pooled, settings), all_parts, count


def normalize_for_part_loss(vectors: Tensor, settings: TuningSettings) -> Tensor:
    """Normalise vectors [..., D] if Eq. 7 uses cosine similarity."""
    return F.normalize(vectors, dim=-1) if settings.part_normalize else vectors


def pool_parts(cells: Tensor, part: Tensor, known: Tensor, parts: int) -> Tensor:
    """Return the mean [B, P, D] of the cells [B, S, D] of each part, 0 for parts without cells.

    `part` [B, S] holds part ids; cells where `known` bool [B, S] is False are ignored.
    """
    of_part = torch.arange(parts, device=part.device) == part.unsqueeze(-1)  # [B, S, P]
    member = (of_part & known.unsqueeze(-1)).to(cells)
    return member.mT @ cells / member.sum(1).clamp(min=1).unsqueeze(-1)

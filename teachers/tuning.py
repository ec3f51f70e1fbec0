"""Stage 1: learn the prompts of every identity, with all of CLIP frozen (π-VL §3.3).

The image features are computed once; epochs then touch text alone. First Eq. 2 on whole crops, then
Eq. 8, which adds the contrast of grid cells with the texts of their identity and part (Eq. 5–7).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pivl_distill.config import PromptSettings, TuningSettings
from pivl_distill.console import track
from pivl_distill.data.parsing import cell_parts
from pivl_distill.data.sampling import epoch_rng, pk_batches, shuffled_batches
from pivl_distill.data.store import CropStore
from pivl_distill.data.vocabulary import IGNORE, Vocabulary
from pivl_distill.embedding import normalize_crops
from pivl_distill.losses import identity_contrast, part_contrast
from pivl_distill.runs import Run
from pivl_distill.schedules import cosine_per_epoch, smooth_cosine
from teachers.clip import Clip
from teachers.prompts import IdentityPrompts

WARMUP_START = 0.05
"""Warm-up begins as if this share of an epoch had passed, so that the first step is not lost."""


@dataclass(frozen=True)
class FrozenFeatures:
    """Features of N crops from the frozen image tower, and what each cell shows."""

    projected: Tensor
    """[N, D], as CLIP gives them."""
    cells: Tensor
    """[N, h·w, D], of unit length; h·w is 0 where the part prompts are not tuned."""
    parts: Tensor
    """[N, h·w] the part of each cell, or IGNORE."""


@torch.no_grad()
def encode_crops(
    clip: Clip, store: CropStore, vocabulary: Vocabulary, settings: TuningSettings
) -> FrozenFeatures:
    """`FrozenFeatures` of every crop, without augmentation (§4.2).

    Cells are kept only where part prompts are tuned: they are by far the largest of all.
    """
    device = clip.text.positional_embedding.device
    by_value = settings.cell_features == "value"
    tokens_of = clip.image.value_tokens if by_value else clip.image.joint_tokens
    projected, cells, parts = [], [], []
    starts = range(0, len(store), 64)
    for start in track(starts, "Encoding crops with CLIP", unit="batches"):
        crops = torch.from_numpy(store.crops[start : start + 64]).to(device)
        tokens = tokens_of(normalize_crops(crops, clip.mean, clip.std))
        projected.append(tokens[:, 0].clone())
        if settings.part_epochs:
            cells.append(F.normalize(tokens[:, 1:], dim=2))
        maps = None if store.maps is None else torch.from_numpy(store.maps[start : start + 64])
        parts.append(_parts(maps, tokens, clip, vocabulary, settings))
    image = torch.cat(projected)
    dense = torch.cat(cells) if cells else image.new_zeros(len(image), 0, image.shape[1])
    return FrozenFeatures(image, dense, torch.cat(parts))


def _parts(
    maps: Tensor | None,
    tokens: Tensor,
    clip: Clip,
    vocabulary: Vocabulary,
    settings: TuningSettings,
) -> Tensor:
    """[B, h·w] the part of each cell; IGNORE throughout without maps."""
    if maps is None:
        return torch.full((len(tokens), tokens.shape[1] - 1), IGNORE, device=tokens.device)
    grid_hw, count = clip.image.grid_hw, len(vocabulary)
    return cell_parts(maps, grid_hw, count, settings.cell_labels).flatten(1).to(tokens.device)


def present_parts(cells: Tensor, rows: Tensor, identities: int, parts: int) -> Tensor:
    """bool [C, P]: whether a part fills a cell of any crop of the identity.

    cells [N, h·w] hold part ids or IGNORE, rows [N] the identity of each crop in 0..C−1.
    """
    present = torch.zeros(identities, parts, dtype=torch.bool)
    known = cells != IGNORE
    of_cell = rows[:, None].expand_as(known)
    present[of_cell[known].cpu(), cells[known].cpu()] = True
    return present


def tune_prompts(
    clip: Clip,
    features: FrozenFeatures,
    rows: Tensor,
    vocabulary: Vocabulary,
    prompts: PromptSettings,
    settings: TuningSettings,
    seed: int,
    run: Run,
) -> IdentityPrompts:
    """Learned prompts of the identities that `rows` [N] numbers from 0, by Eq. 2 and then Eq. 8.

    Each epoch's losses go to the run's metrics.
    """
    generator = torch.Generator().manual_seed(seed)
    identities = int(rows.max()) + 1
    learned = IdentityPrompts(clip.text, prompts, identities, vocabulary, generator)
    learned.to(rows.device)
    optimizer = torch.optim.Adam(
        learned.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    epochs = settings.identity_epochs + settings.part_epochs
    for epoch in track(range(epochs), "Tuning prompts", unit="epochs"):
        batches = epoch_batches(rows.cpu().numpy(), settings, epoch_rng(seed, epoch))
        totals = {"identity": 0.0, "part": 0.0}
        for number, batch in enumerate(batches):
            set_rate(optimizer, settings, epoch + number / len(batches))
            losses = prompt_losses(learned, features, rows, batch, settings, vocabulary, epoch)
            optimizer.zero_grad()
            torch.stack(list(losses.values())).sum().backward()
            optimizer.step()
            for name, value in losses.items():
                totals[name] += value.item() / len(batches)
        run.log(stage="prompts", epoch=epoch + 1, **totals)
    return learned


def epoch_batches(
    rows: np.ndarray, settings: TuningSettings, rng: np.random.Generator
) -> list[np.ndarray]:
    """One epoch of P×K batches, or a permutation of all crops in batches of that size."""
    p, k = settings.identities_per_batch, settings.crops_per_identity
    if settings.batches == "shuffle":
        return shuffled_batches(len(rows), p * k, rng)
    return pk_batches(rows, p, k, rng)


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
    images, texts = features.projected[index], learned.identity(identities)
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
    parts = features.parts[index]
    valid = parts != IGNORE
    if settings.background == "ignore":
        valid &= parts != vocabulary.background
    if not valid.any():
        return learned.tokens.sum() * 0.0
    key = (rows[index][:, None] * len(vocabulary) + parts)[valid]
    pairs, owner = key.unique(return_inverse=True)
    identity, part = pairs // len(vocabulary), pairs % len(vocabulary)
    texts = F.normalize(learned.part(identity, part), dim=1)
    cells = features.cells[index][valid]
    return part_contrast(cells, texts, owner, settings.part_temperature, settings.part_weighting)


def set_rate(optimizer: torch.optim.Optimizer, settings: TuningSettings, epoch: float) -> None:
    """The rate that the settings' schedule has at `epoch`, counted from 0, with its fraction."""
    for group in optimizer.param_groups:
        group["lr"] = rate_at(settings, epoch)


def rate_at(settings: TuningSettings, epoch: float) -> float:
    """One cosine over both parts of stage 1 (readings 10), after a linear warm-up.

    With `restart`, the part epochs have a cosine of their own, which begins at the full rate.
    """
    epochs, warmup = settings.identity_epochs + settings.part_epochs, settings.warmup_epochs
    if settings.restart:
        epochs = settings.identity_epochs
        if epoch >= settings.identity_epochs:
            epoch, epochs, warmup = epoch - epochs, settings.part_epochs, 0.0
    rate, minimum = settings.learning_rate, settings.min_learning_rate
    if settings.schedule == "per_epoch":
        return cosine_per_epoch(int(epoch) + 1, epochs, rate, minimum, warmup, settings.warmup_rate)
    return smooth_cosine(epoch, epochs, rate, minimum, warmup, WARMUP_START)


@torch.no_grad()
def bank_texts(learned: IdentityPrompts, present: Tensor) -> tuple[Tensor, Tensor]:
    """The texts of a bank, encoded once: identity [C, D] and part [C, P, D].

    Only the part texts of `present` bool [C, P] are encoded; the others stay zero, nothing is ever
    aligned with them.
    """
    device = learned.tokens.device
    rows = torch.arange(len(present), device=device)
    identity = torch.cat([learned.identity(chunk) for chunk in rows.split(256)])
    part = identity.new_zeros(*present.shape, identity.shape[1])
    pairs = present.to(device).nonzero()
    chunks = pairs.split(256) if len(pairs) else ()
    for chunk in track(chunks, "Encoding the bank", unit="batches"):
        row, number = chunk.unbind(1)
        part[row, number] = learned.part(row, number)
    return identity, part

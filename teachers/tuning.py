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
from pivl_distill.data.parsing import to_grid
from pivl_distill.data.sampling import Schedule
from pivl_distill.data.store import CropStore
from pivl_distill.data.vocabulary import IGNORE, Vocabulary
from pivl_distill.embedding import normalize_crops
from pivl_distill.losses import identity_contrast, part_contrast
from pivl_distill.runs import Run
from pivl_distill.schedules import cosine_per_epoch, smooth_cosine
from pivl_distill.training import Totals
from teachers.clip import Clip
from teachers.prompts import IdentityPrompts

WARMUP_START = 0.05
"""Warm-up begins as if this share of an epoch had passed, so that the first step is not lost."""


@dataclass(frozen=True)
class FrozenFeatures:
    """Unit-length features of N crops from the frozen image tower, and what each cell shows."""

    projected: Tensor
    """[N, D]."""
    cells: Tensor
    """[N, h·w, D]."""
    parts: Tensor
    """[N, h·w] the majority part of each cell, or IGNORE."""


@torch.inference_mode()
def encode_crops(clip: Clip, store: CropStore, vocabulary: Vocabulary) -> FrozenFeatures:
    """`FrozenFeatures` of every crop, without augmentation (§4.2)."""
    device = clip.text.positional_embedding.device
    projected, cells, parts = [], [], []
    starts = range(0, len(store), 64)
    for start in track(starts, "Encoding crops with CLIP", unit="batches"):
        crops = torch.from_numpy(store.crops[start : start + 64]).to(device)
        tokens = clip.image.joint_tokens(normalize_crops(crops, clip.mean, clip.std))
        unit = F.normalize(tokens, dim=2)
        projected.append(unit[:, 0])
        cells.append(unit[:, 1:])
        if store.maps is not None:
            maps = torch.from_numpy(store.maps[start : start + 64])
            parts.append(to_grid(maps, clip.image.grid_hw, len(vocabulary)).flatten(1).to(device))
    dense = torch.cat(cells)
    unknown = torch.full(dense.shape[:2], IGNORE, device=device)
    return FrozenFeatures(torch.cat(projected), dense, torch.cat(parts) if parts else unknown)


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
    optimizer = torch.optim.Adam(learned.parameters(), lr=settings.learning_rate)
    epochs = settings.identity_epochs + settings.part_epochs
    schedule = Schedule(
        rows.cpu().numpy(),
        settings.identities_per_batch,
        settings.crops_per_identity,
        epochs,
        seed,
    )
    totals = Totals()
    steps = run.progress.remaining(
        "prompts", schedule, prompts=learned, optimizer=optimizer, totals=totals
    )
    for step in track(steps, "Tuning prompts"):
        set_rate(optimizer, settings, step.epochs_before, epochs)
        losses = {"identity": identity_loss(learned, features, rows, step.batch, settings)}
        if step.epoch >= settings.identity_epochs:
            losses["part"] = part_loss(learned, features, rows, step.batch, settings, vocabulary)
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
        totals.add(losses)
        if step.ends_epoch:
            run.log(stage="prompts", epoch=step.epoch + 1, **totals.mean())
            totals.clear()
    return learned


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
    texts = F.normalize(learned.identity(identities), dim=1)
    return identity_contrast(features.projected[index], texts, owner, settings.identity_temperature)


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


def set_rate(
    optimizer: torch.optim.Optimizer, settings: TuningSettings, epoch: float, epochs: int
) -> None:
    """The rate that the settings' schedule has at `epoch`, counted from 0, with its fraction."""
    for group in optimizer.param_groups:
        group["lr"] = rate_at(settings, epoch, epochs)


def rate_at(settings: TuningSettings, epoch: float, epochs: int) -> float:
    """One cosine over both parts of stage 1 (readings 10), after a linear warm-up."""
    rate, minimum, warmup = (
        settings.learning_rate,
        settings.min_learning_rate,
        settings.warmup_epochs,
    )
    if settings.schedule == "per_epoch":
        return cosine_per_epoch(int(epoch) + 1, epochs, rate, minimum, warmup, settings.warmup_rate)
    return smooth_cosine(epoch, epochs, rate, minimum, warmup, WARMUP_START)


@torch.inference_mode()
def bank_texts(learned: IdentityPrompts, identities: int, parts: int) -> tuple[Tensor, Tensor]:
    """All texts of a bank, encoded once: identity [C, D] and part [C, P, D]."""
    rows = torch.arange(identities, device=learned.tokens.device)
    identity = torch.cat([learned.identity(chunk) for chunk in rows.split(256)])
    every_part = torch.arange(parts, device=rows.device)
    part = [
        learned.part(row.repeat(parts), every_part)
        for row in track(rows.split(1), "Encoding the bank", unit="identities")
    ]
    return identity, torch.stack(part)

"""Stage 1: learn the prompts of every identity, with all of CLIP frozen (π-VL §3.3).

The image features are computed once; epochs then touch text alone. First Eq. 2 on whole crops, then
Eq. 8, which adds the contrast of grid cells with the texts of their identity and part (Eq. 5–7).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pivl_distill.config import PromptSettings, TuningSettings
from pivl_distill.console import track
from pivl_distill.data.batches import to_device
from pivl_distill.data.sampling import PKSampler
from pivl_distill.data.vocabulary import IGNORE, Vocabulary
from pivl_distill.distributed.collectives import (
    all_reduce_gradients,
    apply_sharded,
    broadcast_parameters,
)
from pivl_distill.runs.run import Run
from pivl_distill.training.lr_schedules import cosine_per_epoch, smooth_cosine
from pivl_distill.training.metrics import MetricAverages
from teachers.clip import Clip
from teachers.image_features import ImageFeatures
from teachers.prompts import IdentityPrompts
from teachers.stage1_losses import prompt_losses, resolve_temperature

WARMUP_START = 0.05
"""Warm-up begins as if this share of an epoch had passed, so that the first step is not lost."""

PROMPTS_PER_CHUNK = 320
"""Prompts of a bank encoded at a time: some 150 MiB with a text encoder of width 512."""


def present_parts(cells: Tensor, rows: Tensor, identities: int, parts: int) -> Tensor:
    """bool [C, P]: whether a part fills a cell of any crop of the identity.

    cells [N, h·w] hold part ids or IGNORE, rows [N] the identity of each crop in 0..C−1.
    """
    present = torch.zeros(identities, parts, dtype=torch.bool)
    known = cells != IGNORE
    of_cell = rows[:, None].expand_as(known)
    present[of_cell[known], cells[known]] = True
    return present


def tune_prompts(
    clip: Clip,
    features: ImageFeatures,
    rows: Tensor,
    vocabulary: Vocabulary,
    prompts: PromptSettings,
    settings: TuningSettings,
    seed: int,
    run: Run,
) -> IdentityPrompts:
    """Learned prompts of the identities that `rows` [N] numbers from 0, by Eq. 2 and then Eq. 8.

    Each epoch's losses go to the run's metrics. `rows` are on the host, which hands out work to the
    device of `clip` and waits for nothing within an epoch.
    """
    settings = resolve_temperature(settings, clip)
    generator = torch.Generator().manual_seed(seed)
    identities = int(rows.max()) + 1
    learned = IdentityPrompts(clip.text, prompts, identities, vocabulary, generator)
    learned.to(features.projected.device)
    optimizer = make_optimizer(learned, settings)
    totals = MetricAverages()
    steps = run.progress.remaining_steps(
        "prompts",
        make_sampler(rows.numpy(), settings, seed),
        prompts=learned,
        optimizer=optimizer,
        totals=totals,
    )
    broadcast_parameters(learned)
    for step in track(steps, "Tuning prompts"):
        set_learning_rate(optimizer, settings, step.elapsed_epochs)
        losses = prompt_losses(
            learned, features, rows, step.batch, settings, vocabulary, step.epoch
        )
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        all_reduce_gradients(learned.parameters())
        optimizer.step()
        totals.add(losses)
        if step.ends_epoch:
            run.log_metrics(stage="prompts", epoch=step.epoch + 1, **totals.mean())
            totals.clear()
    return learned


def make_optimizer(learned: IdentityPrompts, settings: TuningSettings) -> torch.optim.Optimizer:
    """Adam over the tokens of all identities."""
    return torch.optim.Adam(
        learned.parameters(),
        lr=settings.learning_rate,
        weight_decay=settings.weight_decay,
        fused=True,
    )


def make_sampler(pids: np.ndarray, settings: TuningSettings, seed: int) -> PKSampler:
    """Every step of stage 1, of both its parts."""
    return PKSampler(
        pids,
        settings.identities_per_batch,
        settings.crops_per_identity,
        settings.identity_epochs + settings.part_epochs,
        seed,
        shuffled=settings.batches == "shuffle",
    )


def set_learning_rate(
    optimizer: torch.optim.Optimizer, settings: TuningSettings, epoch: float
) -> None:
    """The rate that the settings' schedule has at `epoch`, counted from 0, with its fraction."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate_at(settings, epoch)


def learning_rate_at(settings: TuningSettings, epoch: float) -> float:
    """One cosine over both parts of stage 1 (readings 10), after a linear warm-up.

    With `restart`, the part epochs have a cosine of their own, which begins at the full rate.
    """
    epochs, warmup = settings.identity_epochs + settings.part_epochs, settings.warmup_epochs
    if settings.restart:
        epochs = settings.identity_epochs
        if epoch >= settings.identity_epochs:
            epoch, epochs, warmup = epoch - epochs, settings.part_epochs, 0.0
    rate, minimum = settings.learning_rate, settings.min_learning_rate
    if settings.lr_schedule == "cosine_per_epoch":
        return cosine_per_epoch(int(epoch) + 1, epochs, rate, minimum, warmup, settings.warmup_rate)
    return smooth_cosine(epoch, epochs, rate, minimum, warmup, WARMUP_START)


@torch.no_grad()
def encode_bank_texts(learned: IdentityPrompts, present: Tensor) -> tuple[Tensor, Tensor]:
    """The texts of a bank, encoded once: identity [C, D] and part [C, P, D].

    `PROMPTS_PER_CHUNK` at a time. Only the part texts of `present` bool [C, P], on the host, are
    encoded; the others stay zero, nothing is ever aligned with them.
    """
    rows = torch.arange(len(present), device=present.device)
    identity = torch.cat(
        [apply_sharded(learned.identity, c) for c in rows.split(PROMPTS_PER_CHUNK)]
    )
    part = identity.new_zeros(*present.shape, identity.shape[1])
    pairs = present.nonzero()
    chunks = pairs.split(PROMPTS_PER_CHUNK) if len(pairs) else ()
    for chunk in track(chunks, "Encoding the bank", unit="chunks"):
        row, number = chunk.unbind(1)
        texts = apply_sharded(learned.part, row, number)
        part[to_device(row, part.device), to_device(number, part.device)] = texts
    return identity, part

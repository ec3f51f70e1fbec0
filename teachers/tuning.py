"""Stage 1: learn the prompts of every identity, with all of CLIP frozen (π-VL §3.3).

Image features are computed once; the epochs run the text encoder only. Identity epochs minimise
Eq. 2 on whole crops; part epochs Eq. 8, which adds the part loss on grid cells (Eq. 5–7).
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
from pivl_distill.runs.state import OptimizerState
from pivl_distill.training.divergence import LossWatch
from pivl_distill.training.lr_schedules import cosine_per_epoch, smooth_cosine
from pivl_distill.training.metrics import MetricAverages
from teachers.clip import Clip
from teachers.image_features import ImageFeatures
from teachers.prompts import IdentityPrompts
from teachers.stage1_losses import prompt_losses, resolve_temperature

WARMUP_START = 0.05
"""Offset of the warm-up in epochs, so that the first learning rate is not 0."""

PROMPTS_PER_CHUNK = 320
"""Prompts of a bank per chunk: about 150 MiB with a text encoder of width 512."""


def present_parts(cells: Tensor, rows: Tensor, identities: int, parts: int) -> Tensor:
    """Return bool [C, P]: whether a part is in a cell of any crop of the identity.

    `cells` [N, h·w] are part ids or IGNORE; `rows` [N] the identity of each crop in 0..C−1.
    """
    present = torch.zeros(identities, parts, dtype=torch.bool)
    known = cells != IGNORE
    identity = rows[:, None].expand_as(known)
    present[identity[known], cells[known]] = True
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
    """Return prompts learned by Eq. 2 and then Eq. 8; log the losses of each epoch to `run`.

    Args:
        clip: the frozen CLIP.
        features: of all N crops, on the device of `clip`.
        rows: [N], on the CPU, identity of each crop in 0..C−1.
        vocabulary: of the parts.
        prompts: templates and number of learned tokens.
        settings: epochs, batches, optimizer and losses.
        seed: of the initial tokens and the batches.
        run: stores metrics and progress.
    """
    settings = resolve_temperature(settings, clip)
    generator = torch.Generator().manual_seed(seed)
    identities = int(rows.max()) + 1
    learned = IdentityPrompts(clip.text, prompts, identities, vocabulary, generator)
    learned.to(features.projected.device)
    optimizer, totals = make_optimizer(learned, settings), MetricAverages()
    sampler = make_sampler(rows.numpy(), settings, seed)
    steps = run.progress.remaining_steps(
        "prompts", sampler, prompts=learned, optimizer=OptimizerState(optimizer), totals=totals
    )
    watch = LossWatch("Tuning prompts (stage prompts)", usual_causes(settings))
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
        watch.add(losses, step.describe(sampler.epochs))
        totals.add(losses)
        if step.ends_epoch:
            watch.flush()
            run.log_metrics(stage="prompts", epoch=step.epoch + 1, **totals.mean())
            totals.clear()
    return learned


def usual_causes(settings: TuningSettings) -> dict[str, object]:
    """Return the settings that usually cause divergence, with their values."""
    names = ("learning_rate", "warmup_epochs", "identity_temperature", "part_temperature")
    return {f"tuning.{name}": getattr(settings, name) for name in names}


def make_optimizer(learned: IdentityPrompts, settings: TuningSettings) -> torch.optim.Optimizer:
    """Return Adam over the learned tokens of all identities."""
    return torch.optim.Adam(
        learned.parameters(),
        lr=settings.learning_rate,
        weight_decay=settings.weight_decay,
        fused=True,
    )


def make_sampler(pids: np.ndarray, settings: TuningSettings, seed: int) -> PKSampler:
    """Return the sampler of all epochs of stage 1."""
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
    """Set the learning rate at `epoch`, counted from 0, fractions included."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate_at(settings, epoch)


def learning_rate_at(settings: TuningSettings, epoch: float) -> float:
    """Return the learning rate at `epoch`, counted from 0, fractions included.

    Linear warm-up, then one cosine over identity and part epochs (reading 10). With `restart`, the
    part epochs have a cosine of their own, without warm-up.
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
    """Return the texts of a bank: identity [C, D] and part [C, P, D].

    Part texts are encoded where `present` bool [C, P], on the CPU, is True; the others are zero and
    are not used.
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

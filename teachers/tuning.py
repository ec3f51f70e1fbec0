"""Stage 1: learn the prompts of every identity, with all of CLIP frozen (π-VL §3.3).

The image features are computed once; epochs then touch text alone. First Eq. 2 on whole crops, then
Eq. 8, which adds the contrast of grid cells with the texts of their identity and part (Eq. 5–7).
"""

from __future__ import annotations

import torch
from torch import Tensor

from pivl_distill.config import PromptSettings, TuningSettings
from pivl_distill.console import track
from pivl_distill.data.sampling import Schedule
from pivl_distill.data.vocabulary import IGNORE, Vocabulary
from pivl_distill.runs import Run
from pivl_distill.schedules import cosine_per_epoch, smooth_cosine
from pivl_distill.training import Totals
from teachers.clip import Clip
from teachers.features import FrozenFeatures
from teachers.objective import identity_loss, part_loss, resolve_temperature
from teachers.prompts import IdentityPrompts

WARMUP_START = 0.05
"""Warm-up begins as if this share of an epoch had passed, so that the first step is not lost."""

CHUNK_PROMPTS = 320
"""Part prompts of a bank encoded at a time: some 150 MiB with a text tower of width 512."""


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
    settings = resolve_temperature(settings, clip)
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
    """All texts of a bank, encoded once: identity [C, D] and part [C, P, D].

    As many identities at a time as fill `CHUNK_PROMPTS`.
    """
    rows = torch.arange(identities, device=learned.tokens.device)
    every_part = torch.arange(parts, device=rows.device)
    identity, part = [], []
    for chunk in track(
        rows.split(max(1, CHUNK_PROMPTS // parts)), "Encoding the bank", unit="chunks"
    ):
        identity.append(learned.identity(chunk))
        pairs = torch.cartesian_prod(chunk, every_part)
        part.append(learned.part(*pairs.T).unflatten(0, (len(chunk), parts)))
    return torch.cat(identity), torch.cat(part)

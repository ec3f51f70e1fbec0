"""Pretraining of the embedded networks on synthetic people: recipe, loop, schedule and options.

`teachers.pretrain` (tiny CLIP), `students.pretrain` (backbone) and `pivl_distill.parsing.pretrain`
(parser) train with this loop; each defines its network, its loss terms and how it is measured. The
seeds of training, evaluation and benchmarks differ, so no person or camera is shared.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch import Tensor, nn

from pivl_distill.console import track
from pivl_distill.data.synthetic.crops import RenderedCrops, render_crops
from pivl_distill.storage.output_path import OutputPath
from pivl_distill.training.divergence import LossWatch
from pivl_distill.training.lr_schedules import floored_cosine

logger = logging.getLogger(__name__)

UNSEEN_SEED, UNSEEN_PEOPLE, UNSEEN_CAMERAS = 9_000_011, 800, 64
"""People and cameras that no pretraining and no benchmark uses; the scripts measure on them."""

MIN_LR_RATIO = 0.01
"""Lowest learning rate of the cosine schedule, relative to the peak."""

MAX_GRAD_NORM = 1.0

LOWER_IN_RECIPE = "set {setting} in the recipe lower"
"""What to do about divergence."""

LossTerms = Mapping[str, Tensor]
"""Loss terms (scalars) by name; their sum is minimised."""


@dataclass(frozen=True)
class Recipe:
    """Settings of a pretraining run; a script's `RECIPE` made the weights in the repository."""

    seed: int
    """Of people, cameras, initial weights, batches and augmentation."""
    crops: int
    """Rendered training crops."""
    cameras: int
    """Synthetic cameras that they are spread over."""
    passes: float
    """Passes over the crops."""
    batch_size: int
    """Crops per step."""
    learning_rate: float
    """Peak learning rate of AdamW."""
    weight_decay: float
    warmup_steps: int
    """Steps of the linear warm-up."""

    def metadata(self, **measured: object) -> dict[str, Any]:
        """Return the metadata to save with the weights: this recipe and what was `measured`."""
        return {"recipe": asdict(self), **measured}


def render_training_crops(
    recipe: Recipe, size_hw: tuple[int, int] = (128, 64)
) -> tuple[RenderedCrops, np.random.Generator]:
    """Seed torch; return the training crops and the generator of batches and augmentation."""
    torch.manual_seed(recipe.seed)
    rng = np.random.default_rng(recipe.seed)
    return render_crops(recipe.seed, recipe.crops, recipe.cameras, size_hw), rng


def pass_batches(recipe: Recipe, rng: np.random.Generator, *, drop_last: bool = True) -> np.ndarray:
    """Return crop indices [steps, batch size], reshuffled in each pass.

    With `drop_last`, each of the whole passes ends with its last full batch. Without, batches
    continue into the next pass, and `passes` may be fractional.
    """
    crops, size = recipe.crops, recipe.batch_size
    if drop_last:
        per_pass = crops // size * size
        orders = [rng.permutation(crops)[:per_pass] for _ in range(int(recipe.passes))]
        return np.array(orders, dtype=np.int64).reshape(-1, size)
    orders = [rng.permutation(crops) for _ in range(math.ceil(recipe.passes) + 1)]
    steps = int(recipe.passes * crops / size)
    return np.concatenate(orders)[: steps * size].reshape(steps, size)


def make_optimizer(network: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Return AdamW over all parameters of `network`."""
    return torch.optim.AdamW(
        network.parameters(),
        lr=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        fused=True,
    )


def learning_rate_at(recipe: Recipe, step: int, steps: int) -> float:
    """Return the learning rate of `step` (from 0) of `steps`: linear warm-up times a cosine."""
    peak = recipe.learning_rate
    return floored_cosine(step, steps, peak, peak * MIN_LR_RATIO, recipe.warmup_steps, start=1)


def pretrain(
    description: str,
    loss_terms: Callable[[np.ndarray], LossTerms],
    batches: np.ndarray,
    optimizer: torch.optim.Optimizer,
    recipe: Recipe,
    *,
    clipped: Sequence[Tensor] = (),
    log_every: int = 100,
    only: range | None = None,
) -> None:
    """Run the training loop: one optimizer step for each batch.

    Args:
        description: what is trained, for the progress line.
        loss_terms: maps crop indices [batch size] to the loss terms of the batch.
        batches: crop indices [steps, batch size].
        optimizer: its learning rate is set before each step.
        recipe: peak learning rate and warm-up.
        clipped: parameters whose gradients are clipped together to the norm `MAX_GRAD_NORM`.
        log_every: steps between two logged losses.
        only: steps to run of all `batches`, for training in several parts; None runs all.

    Raises:
        DivergenceError: A loss term is not finite.
    """
    steps = len(batches)
    watch = LossWatch(description, {"learning_rate": recipe.learning_rate}, LOWER_IN_RECIPE)
    for step in track(range(steps) if only is None else only, description):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(recipe, step, steps)
        losses = loss_terms(batches[step])
        watch.add(losses, f"step {step + 1} of {steps}")
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        if clipped:
            nn.utils.clip_grad_norm_(clipped, MAX_GRAD_NORM)
        optimizer.step()
        if step % log_every == 0:
            logger.info(f"step {step}/{steps}  {_describe(losses)}")


def _describe(losses: LossTerms) -> str:
    return "  ".join(f"{name} {loss.item():.3f}" for name, loss in losses.items())


def pretraining_options(recipe: Recipe, out: Path) -> Callable[[Any], Any]:
    """Return a decorator that adds the options of a script: --passes, --crops and --out.

    The defaults are those of `recipe`; `out` names the file in the help, and the option is None
    unless given.
    """

    def decorate(function: Any) -> Any:
        options = (
            click.option(
                "--passes", default=recipe.passes, show_default=True, help="Passes over the crops."
            ),
            click.option(
                "--crops", default=recipe.crops, show_default=True, help="Training crops."
            ),
            click.option(
                "--out",
                type=OutputPath(),
                help=f"File to write.  [default: in {out}]",
            ),
        )
        for option in options:
            function = option(function)
        return function

    return decorate

"""Pretrain a tiny CLIP on synthetic people: `python -m teachers.pretrain --clip tiny_rn`.

People, seeds and cameras differ from those of every benchmark. `pretraining_loss.py` has the loss
terms. This pretraining uses label maps; OpenAI's CLIP does not.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import click
import torch
from torch import Tensor

from pivl_distill.console import summary
from pivl_distill.data.synthetic.crops import RenderedCrops
from pivl_distill.data.synthetic.people import phrases
from pivl_distill.data.vocabulary import LIP20
from pivl_distill.log_handler import logs_on_stderr
from pivl_distill.training.pretraining import (
    Recipe,
    pass_batches,
    pretrain,
    pretraining_options,
    render_training_crops,
)
from teachers.clip import Clip
from teachers.pretraining_loss import DescribedCrops, PretrainingLoss
from teachers.probes import probe_clip
from teachers.text_encoder import used_token_ids
from teachers.tiny_clip import TINY, WEIGHTS_DIR, build_tiny_clip, save_tiny_clip
from teachers.tiny_vocabulary import vocabulary_texts

RECIPE = Recipe(
    seed=7_000_001,
    crops=20_000,
    cameras=192,
    passes=5.0,
    batch_size=96,
    learning_rate=2e-3,
    weight_decay=0.02,
    warmup_steps=60,
)
"""How the weights in the repository were trained, with one difference: a caption then had one
target, its own crop. Here 3 % of the captions are true of another crop of the batch."""


SKIN = frozenset(
    LIP20.index(name) for name in ("Face", "Left-arm", "Right-arm", "Left-leg", "Right-leg")
)


def described(crops: RenderedCrops) -> DescribedCrops:
    """Return rendered crops with the phrases of their people; captions leave out skin."""
    return DescribedCrops(
        images=crops.images,
        maps=crops.labels,
        vocabulary=LIP20,
        phrases=[phrases(person) for person in crops.people],
        traits=[()] * len(crops.people),
        uncaptioned=SKIN,
    )


def train(name: str, recipe: Recipe) -> tuple[Clip, list[int]]:
    """Return a tiny CLIP trained by `recipe`, and the BPE ids of its token table."""
    crops, rng = render_training_crops(recipe)
    token_ids = used_token_ids(vocabulary_texts())
    clip = build_tiny_clip(name, token_ids)
    clip.image.to(memory_format=torch.channels_last)  # more than twice as fast on a CPU
    losses = PretrainingLoss(clip, described(crops), rng)
    pretrain(
        f"Pretraining {name}",
        losses.terms,
        pass_batches(recipe, rng, drop_last=False),
        make_clip_optimizer(clip, recipe),
        recipe,
        clipped=clip_parameters(clip),
        log_every=50,
    )
    return clip.freeze(), token_ids


def clip_parameters(clip: Clip) -> list[Tensor]:
    """Return the weights of both encoders and the logit scale, which pretraining trains."""
    return [*clip.image.parameters(), *clip.text.parameters(), clip.logit_scale]


def make_clip_optimizer(clip: Clip, recipe: Recipe) -> torch.optim.Optimizer:
    """Return AdamW with CLIP's betas and weight decay on matrices and kernels only."""
    decayed = [p for p in clip_parameters(clip) if p.ndim > 1]
    others = [p for p in clip_parameters(clip) if p.ndim <= 1]
    groups = [
        {"params": decayed, "weight_decay": recipe.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.98))


@click.command()
@click.option("--clip", "name", type=click.Choice(list(TINY)), default="tiny_rn", show_default=True)
@pretraining_options(RECIPE, WEIGHTS_DIR)
def main(name: str, passes: float, crops: int, out: Path | None) -> None:
    """Pretrain a tiny CLIP on synthetic people, measure it on unseen people, write its weights."""
    recipe = replace(RECIPE, passes=passes, crops=crops)
    clip, token_ids = train(name, recipe)
    measured = probe_clip(clip)
    path = out or WEIGHTS_DIR / f"{name}.safetensors"
    save_tiny_clip(clip, path, token_ids, recipe.metadata(unseen_people=asdict(measured)))
    summary(f"{name} on unseen people", {**asdict(measured), "weights": path})


if __name__ == "__main__":
    with logs_on_stderr():
        main()

"""Pretrain a student's start on synthetic people: `python -m students.pretrain`.

It plays the part of ImageNet weights: filters and batch statistics to begin with, from classifying
which kinds of garments people wear, on whole images of people, seeds and cameras that no benchmark
uses, without colours, identities, maps or texts. One pass is short on purpose: it does not yet tell
kinds better than the commonest class, and README.md says what a longer start does to the comparison
of banks. Every arm of a comparison starts from this file.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pivl_distill.console import summary, track
from pivl_distill.data.synthetic.crops import RenderedCrops, render_crops
from pivl_distill.data.synthetic.people import Person
from pivl_distill.data.transforms import Augmentation, augment
from pivl_distill.log_handler import logs_on_stderr
from pivl_distill.models.embedding import normalize_crops
from pivl_distill.storage.tensors import save_tensors
from students.backbones import create_backbone
from students.distill import WEIGHTS_DIR
from students.student import IMAGENET_MEAN, IMAGENET_STD

logger = logging.getLogger(__name__)

KIND = "student start"
UNSEEN_SEED, UNSEEN_PEOPLE, UNSEEN_CAMERAS = 9_000_011, 800, 64

ATTRIBUTES: dict[str, Callable[[Person], str | bool | None]] = {
    "pattern": lambda person: person.pattern,
    "lower garment": lambda person: person.lower,
    "sleeves": lambda person: person.covered_arms,
    "coat": lambda person: person.coat is not None,
    "hat": lambda person: person.hat is not None,
    "hair length": lambda person: person.hair_length,
    "sunglasses": lambda person: person.sunglasses,
    "scarf": lambda person: person.scarf is not None,
    "gloves": lambda person: person.gloves is not None,
    "socks": lambda person: person.shows_socks,
    "bag": lambda person: person.bag,
}
"""What is classified: kinds, never colours."""

Classes = dict[str, list[str | bool | None]]
"""The values of each attribute, in a fixed order."""


@dataclass(frozen=True)
class Recipe:
    """How long and how hard to train."""

    seed: int = 8_000_009
    crops: int = 20_000
    cameras: int = 192
    passes: int = 1
    batch_size: int = 64
    learning_rate: float = 4e-3
    weight_decay: float = 0.02
    warmup_steps: int = 100


def attribute_classes(people: tuple[Person, ...]) -> Classes:
    """`Classes` of the values that occur."""
    return {
        name: sorted({value(person) for person in people}, key=str)
        for name, value in ATTRIBUTES.items()
    }


def attribute_labels(people: tuple[Person, ...], classes: Classes) -> Tensor:
    """Class numbers [N, attributes]."""
    rows = [[classes[name].index(of(who)) for name, of in ATTRIBUTES.items()] for who in people]
    return torch.tensor(rows)


def train(arch: str, recipe: Recipe) -> tuple[nn.Module, dict[str, float]]:
    """A pretrained bare backbone, and its accuracy per attribute on unseen people."""
    torch.manual_seed(recipe.seed)
    rng = np.random.default_rng(recipe.seed)
    crops = render_crops(recipe.seed, recipe.crops, recipe.cameras)
    classes = attribute_classes(crops.people)
    labels = attribute_labels(crops.people, classes)
    sizes = [len(values) for values in classes.values()]
    network = create_backbone(arch, image_size_hw=(128, 64))
    head = nn.Linear(network(torch.zeros(2, 3, 128, 64)).shape[1], sum(sizes))
    model = nn.Sequential(network, head).train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        fused=True,
    )
    steps_per_pass = recipe.crops // recipe.batch_size
    steps = recipe.passes * steps_per_pass
    for step in track(range(steps), f"Pretraining {arch}"):
        if step % steps_per_pass == 0:
            order = rng.permutation(recipe.crops)
        start = step % steps_per_pass * recipe.batch_size
        batch = order[start : start + recipe.batch_size]
        for group in optimizer.param_groups:
            group["lr"] = rate(recipe, step, steps)
        images = augmented(crops, batch, rng)
        loss = attribute_loss(model(images), labels[batch], sizes)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 200 == 0:
            logger.info(f"step {step}/{steps}  loss {loss.item():.3f}")
    return network, measure(model.eval(), classes)


def augmented(crops: RenderedCrops, batch: np.ndarray, rng: np.random.Generator) -> Tensor:
    """Normalised images [B, 3, H, W], shifted, flipped and erased."""
    grey = (124, 116, 104)
    plain = torch.from_numpy(crops.images[batch])
    seen = augment(plain, None, None, Augmentation(pad_px=5), grey, rng)
    return normalize_crops(seen.crops, IMAGENET_MEAN, IMAGENET_STD)


def attribute_loss(logits: Tensor, labels: Tensor, sizes: list[int]) -> Tensor:
    """Mean cross-entropy over the attributes; logits [B, sum of sizes], labels [B, attributes]."""
    parts = logits.split(sizes, dim=1)
    losses = [F.cross_entropy(part, labels[:, i]) for i, part in enumerate(parts)]
    return torch.stack(losses).mean()


def rate(recipe: Recipe, step: int, steps: int) -> float:
    """Linear warm-up, then a cosine to a hundredth."""
    warmup = min(1.0, (step + 1) / recipe.warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * step / steps))
    return recipe.learning_rate * warmup * max(0.01, cosine)


@torch.inference_mode()
def measure(model: nn.Module, classes: Classes) -> dict[str, float]:
    """Accuracy per attribute on people and cameras never trained on."""
    crops = render_crops(UNSEEN_SEED, UNSEEN_PEOPLE, UNSEEN_CAMERAS)
    labels = attribute_labels(crops.people, classes)
    images = normalize_crops(torch.from_numpy(crops.images), IMAGENET_MEAN, IMAGENET_STD)
    logits = torch.cat([model(chunk) for chunk in images.split(100)])
    parts = logits.split([len(values) for values in classes.values()], dim=1)
    hits = {name: parts[i].argmax(1) == labels[:, i] for i, name in enumerate(classes)}
    return {name: round(hit.float().mean().item(), 4) for name, hit in hits.items()}


@click.command()
@click.option("--arch", default="mobilenetv2_025", show_default=True)
@click.option("--passes", default=Recipe.passes, show_default=True, help="Passes over the crops.")
@click.option("--crops", default=Recipe.crops, show_default=True, help="Crops to render.")
@click.option("--out", type=click.Path(path_type=Path), default=None, help="Where to write.")
def main(arch: str, passes: int, crops: int, out: Path | None) -> None:
    """Pretrain a student's start, measure it on unseen people and write its weights."""
    recipe = Recipe(passes=passes, crops=crops)
    network, accuracy = train(arch, recipe)
    path = out or WEIGHTS_DIR / f"{arch}.safetensors"
    state = {
        key: value.half() if value.is_floating_point() else value
        for key, value in network.state_dict().items()
    }
    save_tensors(path, KIND, state, {"recipe": recipe.__dict__, "unseen_people": accuracy})
    summary(f"{arch} on unseen people", {**accuracy, "weights": path})


if __name__ == "__main__":
    with logs_on_stderr():
        main()

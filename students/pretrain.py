"""Pretrain a student's backbone on synthetic people: `python -m students.pretrain`.

The weights take the place of ImageNet weights. The backbone learns to classify the kinds and the
colours of what people wear, on people, seeds and cameras that no benchmark uses, without
identities, maps or texts. Every student in a comparison starts from this file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pivl_distill.console import summary
from pivl_distill.data.synthetic.crops import RenderedCrops, render_crops
from pivl_distill.data.synthetic.people import Person
from pivl_distill.data.transforms import Augmentation, augment
from pivl_distill.log_handler import logs_on_stderr
from pivl_distill.models.embedding import normalize_crops
from pivl_distill.storage.tensors import save_tensors
from pivl_distill.training.pretraining import (
    UNSEEN_CAMERAS,
    UNSEEN_PEOPLE,
    UNSEEN_SEED,
    LossTerms,
    Recipe,
    make_optimizer,
    pass_batches,
    pretrain,
    pretraining_options,
    render_training_crops,
)
from students.backbones import create_backbone
from students.start import WEIGHTS_DIR
from students.student import IMAGENET_MEAN, IMAGENET_STD

KIND = "student start"

ATTRIBUTES: dict[str, Callable[[Person], str | bool | None]] = {
    "skin": lambda person: person.skin,
    "hair": lambda person: person.hair,
    "hair length": lambda person: person.hair_length,
    "lower garment": lambda person: person.lower,
    "lower colour": lambda person: person.lower_colour,
    "shirt": lambda person: person.upper,
    "pattern": lambda person: person.pattern,
    "sleeves": lambda person: person.covered_arms,
    "coat": lambda person: person.coat,
    "hat": lambda person: person.hat,
    "sunglasses": lambda person: person.sunglasses,
    "scarf": lambda person: person.scarf,
    "gloves": lambda person: person.gloves,
    "socks": lambda person: person.socks if person.shows_socks else None,
    "shoes": lambda person: person.shoes,
    "bag": lambda person: person.bag,
    "bag colour": lambda person: person.bag_colour if person.bag else None,
}
"""Attributes that are classified: kinds and colours of garments; None: not worn."""

Classes = dict[str, list[str | bool | None]]
"""Attribute → its values, in class order."""


RECIPE = Recipe(
    seed=8_000_009,
    crops=20_000,
    cameras=192,
    passes=12,
    batch_size=64,
    learning_rate=4e-3,
    weight_decay=0.02,
    warmup_steps=100,
)
"""How the weights in the repository were trained."""


def attribute_classes(people: tuple[Person, ...]) -> Classes:
    """Return the values of each attribute that occur in `people`."""
    return {
        name: sorted({value(person) for person in people}, key=str)
        for name, value in ATTRIBUTES.items()
    }


def attribute_labels(people: tuple[Person, ...], classes: Classes) -> Tensor:
    """Return class ids [N, attributes]; −1 for a value that `classes` lacks."""
    ids = {name: {value: i for i, value in enumerate(values)} for name, values in classes.items()}
    return torch.tensor(
        [[ids[name].get(value(who), -1) for name, value in ATTRIBUTES.items()] for who in people]
    )


def train(arch: str, recipe: Recipe) -> tuple[nn.Module, dict[str, float]]:
    """Return a pretrained backbone without a classifier, and its accuracy on unseen people."""
    crops, rng = render_training_crops(recipe)
    classes = attribute_classes(crops.people)
    labels = attribute_labels(crops.people, classes)
    sizes = [len(values) for values in classes.values()]
    network = create_backbone(arch, image_size_hw=(128, 64))
    head = nn.Linear(network(torch.zeros(2, 3, 128, 64)).shape[1], sum(sizes))
    model = nn.Sequential(network, head).train().to(memory_format=torch.channels_last)

    def loss_terms(batch: np.ndarray) -> LossTerms:
        logits = model(augment_batch(crops, batch, rng))
        return {"loss": attribute_loss(logits, labels[batch], sizes)}

    batches, optimizer = pass_batches(recipe, rng), make_optimizer(model, recipe)
    pretrain(f"Pretraining {arch}", loss_terms, batches, optimizer, recipe, log_every=200)
    return network, measure(model.eval(), classes)


def augment_batch(crops: RenderedCrops, batch: np.ndarray, rng: np.random.Generator) -> Tensor:
    """Return normalised images [B, 3, H, W], randomly shifted, flipped and erased."""
    grey = (124, 116, 104)
    images = torch.from_numpy(crops.images[batch])
    augmented = augment(images, None, None, Augmentation(pad_px=5), grey, rng)
    return normalize_crops(augmented.crops, IMAGENET_MEAN, IMAGENET_STD)


def attribute_loss(logits: Tensor, labels: Tensor, sizes: list[int]) -> Tensor:
    """Mean cross-entropy over attributes; logits [B, sum of sizes], labels [B, attributes]."""
    parts = logits.split(sizes, dim=1)
    losses = [F.cross_entropy(part, labels[:, i]) for i, part in enumerate(parts)]
    return torch.stack(losses).mean()


@torch.inference_mode()
def measure(model: nn.Module, classes: Classes) -> dict[str, float]:
    """Return the accuracy by attribute on unseen people and cameras."""
    crops = render_crops(UNSEEN_SEED, UNSEEN_PEOPLE, UNSEEN_CAMERAS)
    labels = attribute_labels(crops.people, classes)
    images = normalize_crops(torch.from_numpy(crops.images), IMAGENET_MEAN, IMAGENET_STD)
    logits = torch.cat([model(chunk) for chunk in images.split(100)])
    parts = logits.split([len(values) for values in classes.values()], dim=1)
    hits = {name: parts[i].argmax(1) == labels[:, i] for i, name in enumerate(classes)}
    return {name: round(hit.float().mean().item(), 4) for name, hit in hits.items()}


@click.command()
@click.option("--arch", default="mobilenetv2_025", show_default=True, help="timm name.")
@pretraining_options(RECIPE, WEIGHTS_DIR)
def main(arch: str, passes: int, crops: int, out: Path | None) -> None:
    """Pretrain a backbone for students, measure it on unseen people and write its weights."""
    recipe = replace(RECIPE, passes=passes, crops=crops)
    network, accuracy = train(arch, recipe)
    path = out or WEIGHTS_DIR / f"{arch}.safetensors"
    state = {
        key: value.half() if value.is_floating_point() else value
        for key, value in network.state_dict().items()
    }
    save_tensors(path, KIND, state, recipe.metadata(unseen_people=accuracy))
    summary(f"{arch} on unseen people", {**accuracy, "weights": path})


if __name__ == "__main__":
    with logs_on_stderr():
        main()

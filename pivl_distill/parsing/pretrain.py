"""Train the embedded parser on synthetic people: `python -m pivl_distill.parsing.pretrain`.

People, seeds and cameras differ from those of every benchmark. The loss is cross-entropy over
pixels, with rare classes weighted by the fourth root of their rarity, so that gloves and sunglasses
are found, plus a binary term for the side of the crop that the person's left is on, without which
the network does not learn sides. It has seen rendered people only; photographs need another parser.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pivl_distill.console import summary
from pivl_distill.data.synthetic.crops import RenderedCrops, render_crops
from pivl_distill.data.transforms import Augmentation, augment
from pivl_distill.data.vocabulary import IGNORE, LIP20
from pivl_distill.log_handler import logs_on_stderr
from pivl_distill.models.embedding import normalize_crops
from pivl_distill.parsing.map_statistics import ConfusionMatrix
from pivl_distill.parsing.part_unet import PartUNet
from pivl_distill.storage.files import write_bytes
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

WEIGHTS = Path(__file__).parent / "weights" / "synthetic.onnx"
SIZE_HW = (128, 64)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
GREY_RGB = (124, 116, 104)


RECIPE = Recipe(
    seed=6_000_011,
    crops=10_000,
    cameras=192,
    passes=5,
    batch_size=32,
    learning_rate=4e-3,
    weight_decay=0.02,
    warmup_steps=50,
)
"""How the parser in the repository was trained."""


def train(recipe: Recipe) -> PartUNet:
    """Return a trained network in evaluation mode."""
    crops, rng = render_training_crops(recipe, SIZE_HW)
    weights = class_weights(crops.labels)
    network = PartUNet(LIP20).to(memory_format=torch.channels_last)

    def loss_terms(batch: np.ndarray) -> LossTerms:
        images, labels = augment_batch(crops, batch, rng)
        logits, facing = network.scores(images)
        target = subsample_labels(labels, rng)
        pixels = F.cross_entropy(logits, target, weights, ignore_index=IGNORE)
        return {"pixels": pixels, "facing": facing_loss(facing, labels)}

    batches, optimizer = pass_batches(recipe, rng), make_optimizer(network, recipe)
    pretrain("Training the parser", loss_terms, batches, optimizer, recipe)
    return network.eval()


def class_weights(labels: np.ndarray) -> Tensor:
    """Return weights float [P]: the fourth root of mean pixel share over the share of the class."""
    share = np.bincount(labels.ravel(), minlength=len(LIP20)) / labels.size
    return torch.from_numpy((share.mean() / np.maximum(share, 1e-4)) ** 0.25).float()


def augment_batch(
    crops: RenderedCrops, batch: np.ndarray, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Return normalised images [B, 3, H, W] and class ids [B, H, W], shifted and mirrored alike."""
    augmented = augment(
        torch.from_numpy(crops.images[batch]),
        torch.from_numpy(crops.labels[batch]),
        LIP20.mirror,
        Augmentation(pad_px=6, erase_probability=0.0),
        GREY_RGB,
        rng,
    )
    assert augmented.maps is not None
    return normalize_crops(augmented.crops, MEAN, STD), augmented.maps.long()


def subsample_labels(labels: Tensor, rng: np.random.Generator) -> Tensor:
    """Subsample class ids [B, H, W] to [B, H/2, W/2] with one random offset per batch."""
    top, left = rng.integers(0, 2, 2)
    return labels[:, top::2, left::2]


def facing_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Binary cross-entropy of logits [B]: is the person's left right of the right in [B, H, W]?

    Averaged over the crops that show both sides.
    """
    left, right = (
        torch.isin(labels, torch.tensor([pair[side] for pair in LIP20.mirror_pairs])).sum(1).float()
        for side in (0, 1)
    )  # [B, W] pixels per column
    both = (left.sum(1) > 0) & (right.sum(1) > 0)
    columns = torch.arange(labels.shape[2], dtype=torch.float)
    middle = [(side[both] @ columns) / side[both].sum(1) for side in (left, right)]
    return F.binary_cross_entropy_with_logits(logits[both], (middle[0] > middle[1]).float())


@torch.inference_mode()
def measure(network: PartUNet) -> ConfusionMatrix:
    """Return the confusion matrix on unseen people and cameras."""
    crops = render_crops(UNSEEN_SEED, UNSEEN_PEOPLE, UNSEEN_CAMERAS, SIZE_HW)
    agreement = ConfusionMatrix(len(LIP20))
    for start in range(0, UNSEEN_PEOPLE, 50):
        images = normalize_crops(torch.from_numpy(crops.images[start : start + 50]), MEAN, STD)
        logits = F.interpolate(network(images), SIZE_HW, mode="bilinear")
        agreement.add(crops.labels[start : start + 50], logits.argmax(1).byte().numpy())
    return agreement


def save(network: PartUNet, path: Path, metadata: dict[str, str]) -> None:
    """Write ONNX: `images` float32 [batch, 3, 128, 64] → `logits` float32 [batch, 20, 64, 32]."""
    program = torch.onnx.export(
        network,
        (torch.zeros(2, 3, *SIZE_HW),),
        input_names=["images"],
        output_names=["logits"],
        dynamic_shapes=({0: "batch"},),
        opset_version=20,
        verbose=False,
    )
    assert program is not None
    program.model.metadata_props.update(metadata)
    write_bytes(path, program.model_proto.SerializeToString())


@click.command()
@pretraining_options(RECIPE, WEIGHTS.parent)
def main(passes: int, crops: int, out: Path | None) -> None:
    """Train the embedded parser, measure it on unseen people and write it as ONNX."""
    recipe = replace(RECIPE, passes=passes, crops=crops)
    network = train(recipe)
    agreement = measure(network)
    iou = dict(zip(LIP20.labels, agreement.iou().round(3).tolist(), strict=True))
    metadata = recipe.metadata(unseen_people_iou=iou)
    path = out or WEIGHTS
    save(network, path, {name: str(value) for name, value in metadata.items()})
    summary(
        f"Parser on {UNSEEN_PEOPLE} unseen people",
        {"mIoU": f"{agreement.mean_iou:.3f}", **iou, "file": path},
    )


if __name__ == "__main__":
    with logs_on_stderr():
        main()

"""Cost over size: `python benchmarks/scale.py` prints how far from a line it is, and draws it.

Step time against 100 to 10,000 identities in the bank, all else fixed: a stage-1 step (16
identities: their prompts, Eq. 2, its gradient, and Adam over the tokens of all identities) with
CLIP ViT-B/16's text tower, and the text side of a student's step (64 crops of 16 × 8 cells: Eq. 3
and Eq. 11 with their gradients to the image side). Evaluation of 1,000 queries against galleries of
10,000 to 80,000 vectors. The target is a straight line: the figure is how far the slowest and the
fastest lie from a + b · size. The picture is `docs/scale.svg`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from harness import Row, bound, interleaved, on_device, on_gpu, report
from matplotlib import pyplot
from retrieval import Task
from torch import Tensor

from pivl_distill.alignment import alignment_loss, full_texts
from pivl_distill.config import PromptSettings
from pivl_distill.data.vocabulary import LIP20
from pivl_distill.fusion import FusedMap
from pivl_distill.losses import identity_contrast, image_to_text_loss
from teachers.prompts import IdentityPrompts
from teachers.text import TextTower, Tokenizer

ROUNDS = 7
IDENTITIES = (100, 1000, 2500, 5000, 10_000)
GALLERIES, QUERIES = (10_000, 20_000, 40_000, 80_000), 1000
IN_BATCH, CROPS, DIM, GRID_HW = 16, 64, 512, (16, 8)
WITHIN_PERCENT = 10
PICTURE = Path(__file__).parent.parent / "docs" / "scale.svg"


def stage1_step(text: TextTower, identities: int) -> Callable[[], None]:
    prompts = IdentityPrompts(
        text, PromptSettings(), identities, LIP20, torch.Generator(torch.get_default_device())
    )
    optimizer = torch.optim.Adam(prompts.parameters(), lr=1e-3)
    rows = torch.linspace(0, identities - 1, IN_BATCH).long()
    images, owner = unit(CROPS, DIM), torch.arange(IN_BATCH).repeat_interleave(CROPS // IN_BATCH)

    def step() -> None:
        optimizer.zero_grad()
        texts = F.normalize(prompts.identity(rows), dim=1)
        identity_contrast(images, texts, owner, 0.07).backward()
        optimizer.step()

    return step


def student_texts(identities: int) -> Callable[[], None]:
    identity = 10 * unit(identities, DIM)
    part = unit(identities, len(LIP20), DIM)
    labels = torch.linspace(0, identities - 1, CROPS).long()
    parts = torch.randint(0, len(LIP20), (CROPS, *GRID_HW))
    projected = unit(CROPS, DIM).requires_grad_()
    aligned = torch.randn(CROPS, DIM, *GRID_HW, requires_grad=True)

    def step() -> None:
        projected.grad = aligned.grad = None
        loss = image_to_text_loss(projected, identity, labels, 0.1)
        target = full_texts(part, labels, parts)
        (loss + alignment_loss(FusedMap(aligned), target, "cosine", 0.07)).backward()

    return step


def unit(*shape: int) -> Tensor:
    return F.normalize(torch.randn(shape), dim=-1)


def off_the_line(seconds: dict[int, float]) -> float:
    """Largest distance in percent from the straight line that fits the steps best."""
    sizes, measured = np.array(list(seconds)), np.array(list(seconds.values()))
    slope, start = np.polyfit(sizes, measured, 1, w=1 / measured)
    return float(100 * np.abs(measured / (start + slope * sizes) - 1).max())


def evaluation(gallery: int) -> Callable[[], object]:
    return Task.random(QUERIES, gallery, gallery // 20, likeness=0.35).evaluate


def draw(curves: dict[str, dict[int, float]], path: Path) -> None:
    """Times over sizes, each with its line."""
    figure, axes = pyplot.subplots(1, len(curves), figsize=(12, 3.2), layout="constrained")
    for axis, (name, seconds) in zip(axes, curves.items(), strict=True):
        sizes, measured = np.array(list(seconds)), np.array(list(seconds.values()))
        slope, start = np.polyfit(sizes, measured, 1, w=1 / measured)
        axis.plot(sizes, 1000 * (start + slope * sizes), color="0.6", label="straight line")
        axis.plot(sizes, 1000 * measured, "o", color="tab:blue", label="measured")
        of = "crops in the gallery" if name == "evaluation" else "identities in the bank"
        axis.set(title=name, xlabel=of, ylabel="ms", ylim=(0, None))
        axis.legend(loc="lower right")
    figure.savefig(path, metadata={"Date": None})


@click.command()
@on_device
def main() -> None:
    """Measure, print and draw."""
    device = torch.get_default_device()
    clip = open_clip.create_model("ViT-B-16").eval().requires_grad_(False).to(device)
    text = TextTower(clip, Tokenizer())
    curves: dict[str, dict[int, float]] = {
        "stage-1 step": measured({size: stage1_step(text, size) for size in IDENTITIES}),
        "text side of a student's step": measured({s: student_texts(s) for s in IDENTITIES}),
        "evaluation": measured({size: evaluation(size) for size in GALLERIES}),
    }
    rows = list[Row]()
    for name, seconds in curves.items():
        first, last = min(seconds), max(seconds)
        title = f"{name}, size {first:,} to {last:,}: off the straight line"
        rows.append(bound(title, off_the_line(seconds), "%", WITHIN_PERCENT))
        print(name, {size: f"{1000 * s:.1f} ms" for size, s in seconds.items()})
    if not on_gpu():
        draw(curves, PICTURE)
    report("Cost over size", rows)


def measured(ways: dict[int, Callable[[], object]]) -> dict[int, float]:
    """Median seconds for each size."""
    named = {str(size): way for size, way in ways.items()}
    return {int(size): seconds for size, seconds in interleaved(named, ROUNDS).items()}


if __name__ == "__main__":
    main()

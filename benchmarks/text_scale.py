"""Cost over the number of identities: `python benchmarks/text_scale.py [--picture FILE.svg]`.

Step time against 100 to 10,000 identities in the bank, all else fixed: a stage-1 step (16
identities: their prompts, Eq. 2, its gradient, and Adam over the tokens of all identities) with
CLIP ViT-B/16's text tower, and the text side of a student's step (64 crops of 16 × 8 cells: Eq. 3
and Eq. 11 with their gradients to the image side). The target is a straight line: the figure is how
far the slowest and the fastest step lie from a + b · identities. The picture needs matplotlib.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from harness import Row, bound, interleaved, report
from torch import Tensor

from pivl_distill.config import PromptSettings
from pivl_distill.data.vocabulary import LIP20
from pivl_distill.losses import alignment_loss, identity_contrast, image_to_text_loss
from teachers.prompts import IdentityPrompts
from teachers.text import TextTower, Tokenizer

THREADS, ROUNDS = 2, 7
SIZES = (100, 1000, 2500, 5000, 10_000)
IN_BATCH, CROPS, DIM, GRID_HW = 16, 64, 512, (16, 8)
WITHIN_PERCENT = 10


def stage1_step(text: TextTower, identities: int) -> Callable[[], None]:
    prompts = IdentityPrompts(text, PromptSettings(), identities, LIP20, torch.Generator())
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
        (loss + alignment_loss(aligned, part, labels, parts, "cosine")).backward()

    return step


def unit(*shape: int) -> Tensor:
    return F.normalize(torch.randn(shape), dim=-1)


def off_the_line(seconds: dict[int, float]) -> float:
    """Largest distance in percent from the straight line that fits the steps best."""
    sizes, measured = np.array(list(seconds)), np.array(list(seconds.values()))
    slope, start = np.polyfit(sizes, measured, 1, w=1 / measured)
    return float(100 * np.abs(measured / (start + slope * sizes) - 1).max())


def draw(curves: dict[str, dict[int, float]], path: Path) -> None:
    """Step times over identities, each with its line."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(curves), figsize=(9, 3.2), layout="constrained")
    for axis, (name, seconds) in zip(axes, curves.items(), strict=True):
        sizes, measured = np.array(list(seconds)), np.array(list(seconds.values()))
        slope, start = np.polyfit(sizes, measured, 1, w=1 / measured)
        axis.plot(sizes, 1000 * (start + slope * sizes), color="0.6", label="straight line")
        axis.plot(sizes, 1000 * measured, "o", color="tab:blue", label="measured")
        axis.set(title=name, xlabel="identities in the bank", ylabel="ms a step", ylim=(0, None))
        axis.legend(loc="lower right")
    figure.savefig(path, metadata={"Date": None})


@click.command()
@click.option("--picture", type=click.Path(path_type=Path), help="Where to draw the curves.")
def main(picture: Path | None) -> None:
    """Measure, print, and draw if asked."""
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    clip = open_clip.create_model("ViT-B-16").eval().requires_grad_(False)
    text = TextTower(clip, Tokenizer())
    makers: dict[str, Callable[[int], Callable[[], None]]] = {
        "stage-1 step": lambda identities: stage1_step(text, identities),
        "text side of a student's step": student_texts,
    }
    curves, rows = {}, list[Row]()
    for name, make in makers.items():
        steps = {str(identities): make(identities) for identities in SIZES}
        seconds = {int(size): s for size, s in interleaved(steps, ROUNDS).items()}
        curves[name] = seconds
        title = f"{name}, {SIZES[0]} to {SIZES[-1]:,} identities: off the straight line"
        rows.append(bound(title, off_the_line(seconds), "%", WITHIN_PERCENT))
        print(name, {size: f"{1000 * s:.1f} ms" for size, s in seconds.items()})
    report("Cost over size", rows)
    if picture:
        draw(curves, picture)


if __name__ == "__main__":
    main()

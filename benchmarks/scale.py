"""Cost over size: `python benchmarks/scale.py` prints the deviation from a line, and plots it.

Step time over 100 to 10,000 identities in the bank, all else fixed: a stage-1 step (16 identities:
their prompts, Eq. 2, its gradient, and Adam over the tokens of all identities) with CLIP ViT-B/16's
text encoder, and a whole student step as in `student_step.py`, whose classifier has one class per
identity. Evaluation of 1,000 queries over galleries of 10,000 to 80,000 vectors. The target is a
straight line: the figure is the largest distance from a + b · size. The plot is `docs/scale.svg`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import click
import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from harness import Row, bound, interleaved, median, on_device, on_gpu, report
from matplotlib import pyplot
from retrieval import Task
from student_step import crops, student_step
from torch import Tensor

from pivl_distill.config import PromptSettings, TuningSettings
from pivl_distill.data.vocabulary import LIP20
from pivl_distill.losses import identity_contrastive_loss
from pivl_distill.training.host_memory import keep_freed_memory
from teachers.prompts import IdentityPrompts
from teachers.text_encoder import TextEncoder, Tokenizer
from teachers.tuning import make_optimizer

ROUNDS = 7
IDENTITIES = (100, 1000, 2500, 5000, 10_000)
GALLERIES, QUERIES = (10_000, 20_000, 40_000, 80_000), 1000
IN_BATCH, CROPS, DIM = 16, 64, 512
WITHIN_PERCENT = 10
PICTURE = Path(__file__).parent.parent / "docs" / "scale.svg"


def stage1_step(text: TextEncoder, identities: int) -> Callable[[], None]:
    prompts = IdentityPrompts(
        text, PromptSettings(), identities, LIP20, torch.Generator(torch.get_default_device())
    )
    optimizer = make_optimizer(prompts, TuningSettings())
    rows = torch.linspace(0, identities - 1, IN_BATCH, device="cpu").long()
    images, owner = unit(CROPS, DIM), torch.arange(IN_BATCH).repeat_interleave(CROPS // IN_BATCH)

    def step() -> None:
        optimizer.zero_grad()
        texts = F.normalize(prompts.identity(rows), dim=1)
        identity_contrastive_loss(images, texts, owner, 0.07).backward()
        optimizer.step()

    return step


def unit(*shape: int) -> Tensor:
    return F.normalize(torch.randn(shape), dim=-1)


def off_the_line(seconds: dict[int, float]) -> float:
    """Largest deviation in percent from the best straight line."""
    sizes, measured = np.array(list(seconds)), np.array(list(seconds.values()))
    slope, start = np.polyfit(sizes, measured, 1, w=1 / measured)
    return float(100 * np.abs(measured / (start + slope * sizes) - 1).max())


def evaluation(gallery: int) -> Callable[[], object]:
    return Task.random(QUERIES, gallery, gallery // 20, likeness=0.35).evaluate


def draw(curves: dict[str, dict[int, float]], path: Path) -> None:
    """Plot times over sizes, each with its line."""
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


def curves() -> Iterator[tuple[str, dict[int, float]]]:
    """Yield the name of each curve and its seconds per size when it is measured."""
    device = torch.get_default_device()
    clip = open_clip.create_model("ViT-B-16").eval().requires_grad_(False).to(device)
    text, store = TextEncoder(clip, Tokenizer()), crops()
    yield "stage-1 step", measured(partial(stage1_step, text), IDENTITIES)
    yield "student's step", measured(partial(student_step, store, DIM), IDENTITIES)
    yield "evaluation", measured(evaluation, GALLERIES)


def measured(way: Callable[[int], Callable[[], object]], sizes: Sequence[int]) -> dict[int, float]:
    """Median seconds for each size."""
    seconds = interleaved({str(size): way(size) for size in sizes}, ROUNDS)
    return {size: median(seconds[str(size)]) for size in sizes}


def rows() -> Iterator[Row]:
    """Yield the figure of each curve, then plot all of them."""
    drawn = {}
    for name, seconds in curves():
        first, last = min(seconds), max(seconds)
        title = f"{name}, size {first:,} to {last:,}: off the straight line"
        print(name, {size: f"{1000 * s:.1f} ms" for size, s in seconds.items()})
        yield bound(title, off_the_line(seconds), "%", WITHIN_PERCENT)
        drawn[name] = seconds
    if not on_gpu():
        draw(drawn, PICTURE)


@click.command()
@on_device
def main() -> None:
    """Measure, print and draw."""
    keep_freed_memory(torch.get_default_device())  # as the commands do
    report("Cost over size", rows())


if __name__ == "__main__":
    main()

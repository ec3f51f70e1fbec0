"""A student's training step against its bare backbone: `python benchmarks/student_step.py`.

MobileNetV2 ×0.25, 64 crops of 256 × 128 with maps, a bank of 751 identities × 20 parts in 1024
dimensions (CLIP RN50) or 512 (ViT-B/16), all losses of Eq. 12: the whole training step, including
augmentation. The baseline is the same timm backbone with a linear classifier, cross-entropy and the
same fused Adam, on the same crops, with the same precision and memory format. After
`torch.compile`: `benchmarks/compiled_step.py`.
"""

from __future__ import annotations

from collections.abc import Callable

import click
import numpy as np
import torch
import torch.nn.functional as F
from harness import Row, interleaved, on_device, on_gpu, overhead, report, speedup
from torch import nn

from pivl_distill.config import Stage2Settings
from pivl_distill.data.sampling import epoch_rng
from pivl_distill.data.store import CropStore
from pivl_distill.data.vocabulary import LIP20
from pivl_distill.models.embedding import normalize_crops
from pivl_distill.training.alignment import TextFeatures
from pivl_distill.training.dry_run import random_bank
from pivl_distill.training.host_memory import (
    GLIBC_DEFAULTS,
    KEEP_FREED,
    keep_freed_memory,
    set_malloc_options,
)
from pivl_distill.training.precision import half_dtype
from pivl_distill.training.supervision import Supervision
from pivl_distill.training.trainer import Stage2Trainer
from students.backbones import create_backbone
from students.student import IMAGENET_MEAN, IMAGENET_STD, Student

ROUNDS, MALLOC_ROUNDS, AT_MOST = 15, 5, 1.25
ARCH, SIZE_HW, IDENTITIES, IN_BATCH, CROPS = "mobilenetv2_025", (256, 128), 751, 16, 4
BATCH = np.arange(IN_BATCH * CROPS)
PAPER = {
    "head": {"lateral": "auto", "levels": (2, 4)},
    "loss": {"align": 1.0, "align_distance": "mse", "align_background": "include"},
}
"""Head and losses of `--config paper`."""

Step = Callable[[], object]


def crops(size_hw: tuple[int, int] = SIZE_HW) -> CropStore:
    """Noise crops, with a whole person in the middle half of each map."""
    rng, (height, width) = np.random.default_rng(0), size_hw
    maps = np.zeros((len(BATCH), height, width), np.uint8)
    rows = np.arange(height) * (len(LIP20) - 1) // height + 1
    maps[:, :, width // 4 : -width // 4] = rows[:, None]
    pixels = rng.integers(0, 256, (len(BATCH), height, width, 3), dtype=np.uint8)
    return CropStore(pixels, maps, BATCH // CROPS, BATCH % CROPS)


def student_step(
    store: CropStore, dim: int, identities: int = IDENTITIES, **changes: object
) -> Step:
    """A step of stage 2 with all its losses."""
    trainer = student_stage(store, dim, identities, **changes)
    return lambda: trainer.step(BATCH, epoch_rng(0, 0), 0.5)


def student_stage(
    store: CropStore, dim: int, identities: int = IDENTITIES, **changes: object
) -> Stage2Trainer:
    """Stage 2 of a student with random weights."""
    settings = Stage2Settings.model_validate(
        {"identities_per_batch": IN_BATCH, "crops_per_identity": CROPS, **changes}
    )
    device = torch.get_default_device()
    network = create_backbone(ARCH, image_size_hw=SIZE_HW)
    student = Student(ARCH, network, SIZE_HW, identities, dim, True, settings.head).to(device)
    bank = random_bank(tuple(range(identities)), dim, LIP20)
    text_features = TextFeatures.from_bank(bank, settings.loss, settings.head).to(device)
    return Stage2Trainer(student.train(), store, Supervision(texts=text_features), settings)


def bare_step(store: CropStore) -> Step:
    """The backbone with a linear classifier."""
    device = torch.get_default_device()
    backbone = create_backbone(ARCH, image_size_hw=SIZE_HW).to(device).train()
    network = nn.Sequential(backbone, nn.Linear(backbone.head_hidden_size, IDENTITIES))
    network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, fused=True)
    labels, half = torch.from_numpy(store.pids).to(device), half_dtype("auto", device)

    def step() -> None:
        pixels = torch.from_numpy(store.crops[BATCH]).to(device)
        images = normalize_crops(pixels, IMAGENET_MEAN, IMAGENET_STD)
        with torch.autocast(device.type, half, enabled=half is not None):
            logits = network(images)
        optimizer.zero_grad()
        F.cross_entropy(logits.float(), labels).backward()
        optimizer.step()

    return step


def freed_memory_row(step: Step) -> Row:
    """The step with freed memory kept for the next tensor, and with glibc's defaults.

    What is compared leaves the heap as it likes it, so each step is preceded by an untimed one.
    """

    def after(setting: tuple[int, int]) -> Callable[[], object]:
        return lambda: (set_malloc_options(*setting), step())

    seconds = interleaved(
        {
            "to keep": after(KEEP_FREED),
            "kept": step,
            "to give back": after(GLIBC_DEFAULTS),
            "given back": step,
        },
        MALLOC_ROUNDS,
    )
    name = f"student step, {len(BATCH)} × {SIZE_HW[0]}×{SIZE_HW[1]}, freed memory kept"
    return speedup(f"{name}, against given back", seconds["kept"], seconds["given back"], "s", None)


@click.command()
@on_device
def main() -> None:
    """Measure and print all rows."""
    store = crops()
    malloc_rows = [] if on_gpu() else [freed_memory_row(student_step(store, 1024))]
    keep_freed_memory(torch.get_default_device())  # as the command does
    ways = {
        "bank of 1024 dimensions": student_step(store, 1024),
        "bank of 512 dimensions": student_step(store, 512),
        "paper preset, 1024 dimensions": student_step(store, 1024, **PAPER),
    }
    seconds = interleaved({"bare": bare_step(store), **ways}, ROUNDS)
    title = f"student step, {len(BATCH)} × {SIZE_HW[0]}×{SIZE_HW[1]}"
    rows: list[Row] = [
        overhead(f"{title}, {way}, against the bare backbone", s, seconds["bare"], "s", AT_MOST)
        for way, s in seconds.items()
        if way != "bare"
    ]
    report("Student's training step", [*rows, *malloc_rows])


if __name__ == "__main__":
    main()

"""A teacher step in half precision and in less memory: `python benchmarks/teacher_step.py`.

CLIP's image encoder as a ReID network, 64 crops of 256 × 128, all losses of Eq. 12, random weights.
Time: `precision: bfloat16` against float32. Memory: the peak of a step with `checkpointing`, and
with `accumulate: 4`, against the plain step, each with its cost in time. For a GPU:
`--device cuda`; on a CPU use `--clip tiny_vit`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import click
import torch
from harness import Row, interleaved, on_device, overhead, peak_bytes, report, speedup
from student_step import BATCH, CROPS, IDENTITIES, IN_BATCH, crops

from pivl_distill.config import Stage2Settings
from pivl_distill.data.sampling import epoch_rng
from pivl_distill.data.store import CropStore
from pivl_distill.data.vocabulary import LIP20
from pivl_distill.training.alignment import TextFeatures
from pivl_distill.training.dry_run import random_bank
from pivl_distill.training.supervision import Supervision
from pivl_distill.training.trainer import Stage2Trainer
from teachers.clip_loading import load_clip
from teachers.teacher import Teacher
from teachers.tiny_clip import TINY, TINY_SIZE_HW

ROUNDS, PARTS = 5, 4
WAYS: dict[str, dict[str, object]] = {
    "float32": {"precision": "float32"},
    "bfloat16": {"precision": "bfloat16"},
    "checkpointing": {"precision": "bfloat16", "checkpointing": True},
    f"accumulate {PARTS}": {"precision": "bfloat16", "accumulate": PARTS},
}


def teacher_step(clip_name: str, store: CropStore, **changes: object) -> Callable[[], object]:
    """A step of stage 2 of a teacher with random weights."""
    settings = Stage2Settings.model_validate(
        {"identities_per_batch": IN_BATCH, "crops_per_identity": CROPS, **changes}
    )
    device, size_hw = torch.get_default_device(), store.crops.shape[1:3]
    clip = load_clip(clip_name, "none", size_hw).to(device)
    teacher = Teacher(clip, IDENTITIES, settings.head).to(device)
    bank = random_bank(tuple(range(IDENTITIES)), clip.image.dim, LIP20)
    text_features = TextFeatures.from_bank(bank, settings.loss, settings.head).to(device)
    trainer = Stage2Trainer(teacher.train(), store, Supervision(texts=text_features), settings)
    return lambda: trainer.step(BATCH, epoch_rng(0, 0), 0.5)


def rows_of(clip_name: str, store: CropStore) -> Iterator[Row]:
    """Time and memory of one CLIP."""
    able = {
        name: changes
        for name, changes in WAYS.items()
        if name != "checkpointing" or "ViT" in clip_name or "vit" in clip_name
    }
    steps = {name: teacher_step(clip_name, store, **changes) for name, changes in able.items()}
    seconds = interleaved(steps, ROUNDS)
    peaks = {name: peak_bytes(step) / 2**20 for name, step in steps.items()}
    title, plain = f"teacher step, {clip_name}, {len(BATCH)} crops", seconds["bfloat16"]
    yield speedup(f"{title}, bfloat16 against float32", plain, seconds["float32"], "s", None)
    for name in list(able)[2:]:
        peak = peaks["bfloat16"]
        yield speedup(f"{title}, {name}, memory against plain", peaks[name], peak, "MiB", None)
        yield overhead(f"{title}, {name}, time against plain", seconds[name], plain, "s", None)


@click.command()
@click.option("--clip", "names", multiple=True, default=("ViT-B-16", "RN50"), show_default=True)
@on_device
def main(names: tuple[str, ...]) -> None:
    """Measure and print all rows."""
    sizes = {name: TINY_SIZE_HW if name in TINY else (256, 128) for name in names}
    rows = (row for name, size_hw in sizes.items() for row in rows_of(name, crops(size_hw)))
    report("Teacher's training step", rows)


if __name__ == "__main__":
    main()

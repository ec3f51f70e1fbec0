"""How much a student's figure moves by chance: seeds, one flipped bit, another number of threads.

    python -m benchmarks.stability

The plain student of `benchmarks.student_arms`, whose file gets two more arms. A figure means
something only if the seeds of an arm, and these arms, agree within half a point of mAP.
"""

from __future__ import annotations

from pathlib import Path

import click
import torch

from benchmarks.arms import BASELINE, arm
from benchmarks.experiment import RESULTS, ResultFile
from benchmarks.harness import THREADS
from benchmarks.student_arms import BUDGET, header, measure_arms
from pivl_distill.config import StudentConfig
from pivl_distill.runs.run import RUNS_DIR
from pivl_distill.storage.output_path import OutputPath
from pivl_distill.storage.tensors import load_tensors, save_tensors
from students.pretrain import KIND
from students.start import WEIGHTS_DIR

CHANGED = {
    "flipped_bit": arm("labels alone, one bit of the initial weights flipped", "none"),
    "one_thread": arm("labels alone, one thread", "none"),
}


@click.command()
@click.option("--seeds", default=6, show_default=True, help="Of the plain student.")
@click.option("--changed-seeds", default=3, show_default=True, help="Of the two other arms.")
@click.option("--out", type=OutputPath(), help="Result file.")
def main(seeds: int, changed_seeds: int, out: Path | None) -> None:
    """Train the plain student again and again, and print the spread of its scores."""
    experiment = header(validate=False)
    experiment = experiment.model_copy(update={"arms": experiment.arms | CHANGED})
    torch.set_num_threads(THREADS)
    file = ResultFile.load_or_create(out or RESULTS / "student_arms.json", experiment)
    measure_arms(file, BASELINE, range(seeds), BUDGET)
    start = flip_a_bit(WEIGHTS_DIR / f"{StudentConfig().arch}.safetensors", RUNS_DIR)
    flipped = {**BUDGET, "pretrained": str(start)}
    measure_arms(file, "flipped_bit", range(changed_seeds), flipped)
    torch.set_num_threads(1)
    file = ResultFile.load_or_create(file.path, experiment)  # its origin has the threads
    measure_arms(file, "one_thread", range(changed_seeds), BUDGET)


def flip_a_bit(weights: Path, folder: Path) -> Path:
    """Write a copy of a file of weights whose first value differs in its lowest bit."""
    _, tensors, metadata = load_tensors(weights, KIND)
    first = next(tensor for tensor in tensors.values() if tensor.is_floating_point())
    bits = first.flatten().view(torch.int16 if first.element_size() == 2 else torch.int32)
    bits[0] ^= 1
    path = folder / f"{weights.stem}_flipped_bit.safetensors"
    save_tensors(path, KIND, tensors, metadata)
    return path


if __name__ == "__main__":
    main()

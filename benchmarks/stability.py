"""How much a student's figure moves by chance: seeds, thread counts, one flipped bit.

    python -m benchmarks.stability

The plain student, with the default budget and with that of the experiments. A figure means
something only if these rows agree within a point, and within half a point with more epochs.
"""

from __future__ import annotations

from pathlib import Path

import click
import torch

from benchmarks.arms import arm
from benchmarks.experiment import RESULTS, Experiment, ResultFile
from benchmarks.harness import THREADS
from benchmarks.student_arms import EPOCHS, measure_arms
from pivl_distill.config import StudentConfig
from pivl_distill.runs.run import RUNS_DIR
from pivl_distill.storage.output_path import OutputPath
from pivl_distill.storage.tensors import load_tensors, save_tensors
from students.pretrain import KIND
from students.start import WEIGHTS_DIR

CHANGED_SEEDS = 3
"""Seeds of the arms with one thread and with a flipped bit."""


@click.command()
@click.option("--seeds", default=6, show_default=True)
@click.option("--epochs", default=EPOCHS, show_default=True)
@click.option("--out", type=OutputPath(), help="Result file.")
def main(seeds: int, epochs: int, out: Path | None) -> None:
    """Train the plain student again and again, and print the spread of its scores."""
    path = out or RESULTS / f"stability_{epochs}_epochs.json"
    file = ResultFile.load_or_create(path, header(epochs))
    settings = {"stage2.epochs": epochs}
    torch.set_num_threads(THREADS)
    measure_arms(file, "plain", seeds, settings)
    start = flip_a_bit(WEIGHTS_DIR / f"{StudentConfig().arch}.safetensors", RUNS_DIR)
    measure_arms(file, "flipped_bit", CHANGED_SEEDS, settings | {"pretrained": str(start)})
    torch.set_num_threads(1)
    measure_arms(file, "one_thread", CHANGED_SEEDS, settings)


def header(epochs: int) -> Experiment:
    """Return the description of the experiment."""
    return Experiment(
        name=f"Spread of the plain student, {epochs} epochs",
        question="How much do mAP and Rank-1 move with the seed, the threads, and one flipped bit?",
        command=f"python -m benchmarks.stability --epochs {epochs}",
        data="synthetic:default",
        budget={"arch": StudentConfig().arch, "epochs": epochs},
        arms={
            "plain": arm("labels alone", "none"),
            "one_thread": arm("one thread", "none"),
            "flipped_bit": arm("one bit of the initial weights flipped", "none"),
        },
        baseline="plain",
    )


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

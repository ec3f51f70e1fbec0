"""A student of photographs in the gallery of OSNet, which was trained on MSMT17: `galleries`."""

from __future__ import annotations

from pathlib import Path

import click
import torch

from benchmarks.compatible import MEASURED, PLAIN, Runs, add_rows
from benchmarks.experiment import RESULTS, Arm, Experiment, ResultFile
from benchmarks.harness import THREADS
from benchmarks.market1501.files import SIZE_HW, Files, root_option
from pivl_distill.config import StudentConfig
from pivl_distill.storage.output_path import OutputPath

OLD, PRESET = "osnet_msmt17", "osnet"


@click.command("galleries")
@root_option
@click.option("--seeds", default=3, show_default=True)
@click.option("--epochs", default=12, show_default=True)
@click.option("--out", type=OutputPath(), default=RESULTS / "market1501_galleries.json")
def main(root: Path, seeds: int, epochs: int, out: Path) -> None:
    """Train students alone and for OSNet's gallery; score each in each gallery."""
    files = Files(root)
    settings = {
        **PLAIN,
        "data.spec": files.spec,
        "data.size_hw": SIZE_HW,
        "pretrained": str(files.imagenet_start),
        "stage2.epochs": epochs,
        "stage2.compile": True,
    }
    torch.set_num_threads(THREADS)
    runs = Runs(files.root / "runs" / "galleries", settings, None)
    file = ResultFile.load_or_create(out, header(epochs))
    for seed in range(seeds):
        add_rows(file, runs, files.rival(OLD), OLD, seed, PRESET)


def header(epochs: int) -> Experiment:
    """Return the description of the experiment."""
    stage2, arch = StudentConfig().stage2, StudentConfig().arch
    return Experiment(
        name="A student in the gallery of OSNet, on Market-1501",
        question="Can a gallery of photographs stay when another network replaces OSNet?",
        command="python -m benchmarks.market1501 galleries --root ROOT",
        data=f"market1501, {SIZE_HW[0]}×{SIZE_HW[1]}",
        budget={
            "arch": arch,
            "start": "ImageNet, selected channels",
            "epochs": epochs,
            "batch": stage2.identities_per_batch * stage2.crops_per_identity,
            "learning rate": stage2.learning_rate,
        },
        arms={
            f"{name}_{OLD}": Arm(label=f"{label}; old: OSNet ×0.25 of MSMT17")
            for name, label in MEASURED.items()
        },
        baseline=f"old_{OLD}",
    )

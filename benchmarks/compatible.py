"""A new network in the gallery of an old one: trained for it, and with stored vectors migrated.

    python -m benchmarks.compatible                three seeds, two old networks
    python -m benchmarks.compatible --seeds 1 --old seed

The old networks are weaker students: of the same architecture, and of another one with vectors of
another length. A row is the mAP of queries of one network in the gallery of another. Runs are in
runs/compatible/; one that is finished is not trained again, and one that was stopped is resumed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch

from benchmarks.experiment import RESULTS, Arm, Experiment, ResultFile, Row
from benchmarks.harness import THREADS
from benchmarks.student_arms import teach_once
from pivl_distill.app.cross_test import cross_test
from pivl_distill.app.migrate import fit_migration
from pivl_distill.app.networks import load_network
from pivl_distill.app.targets import evaluate_target
from pivl_distill.app.training_plan import find_gallery
from pivl_distill.config import StudentConfig, load_config
from pivl_distill.foreign import load_preprocessing
from pivl_distill.runs.run import RUNS_DIR
from pivl_distill.storage.filenames import RUN_FILE, STUDENT_FILE
from pivl_distill.storage.output_path import OutputPath
from students.distill import train_student

DATA = "synthetic:small"
FOLDER = RUNS_DIR / "compatible"
PLAIN = {"supervision": "none", "teacher": "none"}
OLD: dict[str, dict[str, Any]] = {
    "seed": {**PLAIN, "stage2.epochs": 5},
    "arch": {**PLAIN, "stage2.epochs": 10, "arch": "resnet10t"},
}
"""Settings of old networks; names of arms end in these keys."""
OLD_SEED = 100
"""Added to the seed of a row for its old network."""
MEASURED = {
    "old": "old → old",
    "new": "new → new, trained alone",
    "compatible": "new → new, trained for the gallery",
    "cross": "new → old, trained for the gallery",
    "mixed": "new → old, trained alone",
    "migrated": "new → migrated gallery, trained alone",
}
"""What is measured for each old network: queries → gallery."""


@click.command()
@click.option("--seeds", default=3, show_default=True)
@click.option("--old", "names", multiple=True, type=click.Choice([*OLD]), help="Default: all.")
@click.option("--out", type=OutputPath(), default=RESULTS / "compatible.json")
def main(seeds: int, names: tuple[str, ...], out: Path) -> None:
    """Train old, new and compatible networks, and score each in each gallery."""
    torch.set_num_threads(THREADS)
    file = ResultFile.load_or_create(out, header())
    bank = teach_once(FOLDER / "teach", {"data.spec": DATA})
    for seed in range(seeds):
        for key in names or [*OLD]:
            runs = Runs(FOLDER, {"data.spec": DATA}, bank)
            settings = {**OLD[key], "seed": OLD_SEED + seed}
            add_rows(file, runs, runs.train(f"old-{key}-{seed}", settings), key, seed)


def header() -> Experiment:
    """Return the description of the experiment."""
    stage2, arch = StudentConfig().stage2, StudentConfig().arch
    return Experiment(
        name="A new network in the gallery of an old one",
        question="Can the gallery stay when the network changes, and what does it cost?",
        command="python -m benchmarks.compatible",
        data=DATA,
        budget={
            "arch": arch,
            "epochs": stage2.epochs,
            "batch": stage2.identities_per_batch * stage2.crops_per_identity,
            "learning rate": stage2.learning_rate,
        },
        arms={
            f"{name}_{key}": Arm(label=f"{label}; old: {describe_old(settings)}", settings=settings)
            for key, settings in OLD.items()
            for name, label in MEASURED.items()
        },
        baseline="old_seed",
    )


def describe_old(settings: Mapping[str, Any]) -> str:
    """Return the architecture and the epochs of an old network."""
    return f"{settings.get('arch', StudentConfig().arch)}, {settings['stage2.epochs']} epochs"


@dataclass(frozen=True)
class Runs:
    """Students that are trained once: their folder, what they share, and their bank."""

    folder: Path
    settings: Mapping[str, Any]
    bank: Path | None

    def train(self, name: str, settings: Mapping[str, Any]) -> Path:
        """Return the checkpoint of a student, which is trained unless its run is finished."""
        run = self.folder / name
        if not (run / RUN_FILE).is_file():
            overrides = {**self.settings, **settings}
            config = load_config(StudentConfig, "student", None, overrides)
            bank = None if config.supervision == "none" else self.bank
            new, resumed = (None, run) if run.is_dir() else (run, None)
            train_student(config, bank, new, resumed, gallery=find_gallery(config))
        return run / STUDENT_FILE


def add_rows(
    file: ResultFile, runs: Runs, old: Path, key: str, seed: int, preset: str | None = None
) -> None:
    """Train a new network alone and for the gallery of `old`; add and print the missing rows.

    Args:
        file: gets the rows of `MEASURED`; its arms end in `key`.
        runs: of the new networks.
        old: network whose gallery is kept.
        key: names it.
        seed: of the new networks.
        preset: preprocessing of an old network of others.
    """
    if all(file.done(f"{name}_{key}", seed) for name in MEASURED):
        return
    new = runs.train(f"new-{seed}", {"seed": seed})
    compatible = {"compatible.network": str(old), "compatible.preset": preset}
    kept = runs.train(f"compatible-{key}-{seed}", {"seed": seed, **compatible})
    for row in score(old, new, kept, preset, key, seed):
        if not file.done(row.arm, seed):
            file.add(row)
            click.echo(f"{row.arm}, seed {seed}: {100 * row.mAP:.1f} mAP")


def score(
    old: Path, new: Path, kept: Path, preset: str | None, key: str, seed: int
) -> Iterator[Row]:
    """Yield the rows of an old network, a new one, and one trained for its gallery."""
    declared = None if preset is None else load_preprocessing(preset)
    alone, together = (
        evaluate_target(new, None),
        cross_test(evaluate_target(kept, None), old, declared),
    )
    migration = fit_migration(load_network(old, declared), load_network(new))
    results = {
        "old": together.old,
        "new": alone.result,
        "compatible": together.new,
        "cross": together.cross,
        "migrated": migration.after,
    }
    if migration.old.dim == migration.new.dim:
        results["mixed"] = cross_test(alone, old, declared).cross
    for name, result in results.items():
        if result is not None:
            yield Row(arm=f"{name}_{key}", seed=seed, mAP=result.mAP, rank1=result.rank(1))


if __name__ == "__main__":
    main()

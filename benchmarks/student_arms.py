"""What helps a student, and by how much: one network per arm and seed, results in one file.

    python -m benchmarks.student_arms                           every arm with six seeds
    python -m benchmarks.student_arms --arms plain,embeddings --seeds 3
    python -m benchmarks.student_arms --validate                on held-out training identities

Arms share initial weights, budget, seeds and data order. Settings were chosen with `--validate`,
never on the test identities. A row is written when it is measured; an interrupted experiment
continues from there.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import torch

from benchmarks.arms import ARMS, BASELINE, OURS, UNLABELED
from benchmarks.experiment import RESULTS, Experiment, ResultFile, Row
from benchmarks.harness import THREADS
from pivl_distill.config import StudentConfig, TeachConfig, load_config
from pivl_distill.runs.metrics import read_metrics
from pivl_distill.runs.run import RUNS_DIR
from pivl_distill.runs.seed_differences import spread
from pivl_distill.storage.filenames import BANK_FILE, RUN_FILE
from pivl_distill.storage.output_path import OutputPath
from students.distill import StudentReport, train_student
from teachers.teach import teach

BUDGET = {"stage2.epochs": 30, "stage2.compile": True}
"""The default, compiled: near the plateau of the plain student."""

HELD_OUT = 32
"""Training identities that `--validate` holds out."""


@click.command()
@click.option("--arms", "names", help="Arms, separated by commas; default: all.")
@click.option("--seeds", default=6, show_default=True)
@click.option("--validate", is_flag=True, help="Score held-out training identities instead.")
@click.option("--out", type=OutputPath(), help="Result file.")
def main(names: str | None, seeds: int, validate: bool, out: Path | None) -> None:
    """Train every arm with every seed, and print its difference to the plain student."""
    name = "student_arms_validation" if validate else "student_arms"
    data = {"data.validation_identities": HELD_OUT} if validate else {}
    bank = teach_once(RUNS_DIR / name, {**data, "data.unlabeled": UNLABELED})
    torch.set_num_threads(THREADS)
    file = ResultFile.load_or_create(out or RESULTS / f"{name}.json", header(validate))
    settings, teachers = {**data, **BUDGET}, {OURS: bank.parent}
    measure_arms(
        file, names, range(seeds), settings, bank=bank, teachers=teachers, validate=validate
    )


def header(validate: bool) -> Experiment:
    """Return the description of the experiment."""
    settings = StudentConfig().stage2
    split = f"{HELD_OUT} held-out training identities" if validate else "the test identities"
    return Experiment(
        name=f"What helps a student, on {split}",
        question="Which supervision improves a student of equal budget, and which part of it?",
        command="python -m benchmarks.student_arms" + " --validate" * validate,
        data="synthetic:default",
        budget={
            "arch": StudentConfig().arch,
            "epochs": BUDGET["stage2.epochs"],
            "batch": settings.identities_per_batch * settings.crops_per_identity,
            "learning rate": settings.learning_rate,
        },
        arms=ARMS,
        baseline=BASELINE,
    )


def teach_once(run: Path, settings: Mapping[str, Any], preset: str | None = None) -> Path:
    """Return the bank of the teach run in `run`, which is made, or resumed if it is unfinished.

    `settings` take precedence over those of the preset in `configs/`.
    """
    if not (run / RUN_FILE).is_file():
        config = load_config(TeachConfig, "teach", preset, dict(settings))
        teach(config, out=None if run.is_dir() else run, resume=run if run.is_dir() else None)
    return run / BANK_FILE


def measure_arms(
    file: ResultFile,
    names: str | None,
    seeds: Sequence[int],
    settings: Mapping[str, Any],
    *,
    bank: Path | None = None,
    teachers: Mapping[str, Path] | None = None,
    validate: bool = False,
) -> None:
    """Train every arm with every seed that the file lacks, and print the differences.

    Args:
        file: gets a row per arm and seed; its experiment has the arms.
        names: arms to measure, separated by commas; None for all.
        seeds: a row each.
        settings: settings that all arms share, by dotted name.
        bank: bank file; arms without texts do not use it.
        teachers: run, file or network of each teacher that an arm names.
        validate: whether rows have the scores of the validation identities.
    """
    arms = file.experiment.arms
    chosen = list(arms) if names is None else names.split(",")
    for seed, arm in itertools.product(seeds, chosen):
        if file.done(arm, seed):
            continue
        overrides = {**settings, **arms[arm].settings, "seed": seed}
        if (teacher := (teachers or {}).get(overrides["teacher"])) is not None:
            overrides["teacher"] = str(teacher)
        config = load_config(StudentConfig, "student", None, overrides)
        report = train_student(config, None if config.supervision == "none" else bank)
        file.add(row_from_run(arm, seed, report, validate=validate))
    for arm in chosen:
        difference = file.experiment.compare(arm, file.experiment.baseline)
        click.echo(f"{arm}: {spread(file.experiment.values(arm))} mAP, {difference}")


def row_from_run(arm: str, seed: int, report: StudentReport, *, validate: bool = False) -> Row:
    """Return the row of a finished run, with the scores of its test or validation identities."""
    last = read_metrics(report.run)[-1]
    scores = report.retrieval
    return Row(
        arm=arm,
        seed=seed,
        mAP=last["val_mAP"] if validate else scores.mAP,
        rank1=last["val_rank1"] if validate else scores.rank(1),
        train_top1=last["accuracy"],
        seconds=round(report.seconds, 1),
    )


if __name__ == "__main__":
    main()

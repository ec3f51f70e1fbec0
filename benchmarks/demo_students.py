"""Whether the demo's taught student beats its plain one, whatever the seed and the threads.

    python -m benchmarks.demo_students

Every seed trains a teacher of its own, and the students of the demo with one and with two threads.
"""

from __future__ import annotations

import itertools

import click
import torch

from benchmarks.arms import OURS, arm
from benchmarks.experiment import RESULTS, Experiment, ResultFile
from benchmarks.harness import THREADS
from benchmarks.student_arms import measure_arms, teach_once
from pivl_distill.app.demo import DATA
from pivl_distill.config import StudentConfig
from pivl_distill.runs.run import RUNS_DIR

THREAD_COUNTS = (1, 2)


@click.command()
@click.option("--seeds", default=10, show_default=True)
def main(seeds: int) -> None:
    """Train the demo's students again and again; print how often the taught one is better."""
    path = RESULTS / "demo_students.json"
    for seed in range(seeds):
        torch.set_num_threads(THREADS)
        bank = teach_once(RUNS_DIR / f"demo_students_{seed}", {"data.spec": DATA, "seed": seed})
        for threads in THREAD_COUNTS:
            torch.set_num_threads(threads)
            file = ResultFile.load_or_create(path, header())
            names = f"plain_{threads},taught_{threads}"
            teachers = {OURS: bank.parent}
            measure_arms(file, names, [seed], {"data.spec": DATA}, bank=bank, teachers=teachers)
    experiment = ResultFile.load_or_create(path, header()).experiment
    wins = [
        taught > plain
        for threads in THREAD_COUNTS
        for plain, taught in zip(
            experiment.values(f"plain_{threads}"),
            experiment.values(f"taught_{threads}"),
            strict=True,
        )
    ]
    click.echo(f"The taught student is better in {sum(wins)} of {len(wins)} runs.")


def header() -> Experiment:
    """Return the description of the experiment."""
    kinds = {"plain": ("labels alone", "none", "none"), "taught": ("default recipe", "part", OURS)}
    return Experiment(
        name="Students of the demo",
        question="Is the taught student of the demo better with every seed and number of threads?",
        command="python -m benchmarks.demo_students",
        data=DATA,
        budget={"arch": StudentConfig().arch, "epochs": StudentConfig().stage2.epochs},
        arms={
            f"{name}_{threads}": arm(f"{label}, threads: {threads}", supervision, teacher)
            for threads, (name, (label, supervision, teacher)) in itertools.product(
                THREAD_COUNTS, kinds.items()
            )
        },
        baseline="plain_1",
    )


if __name__ == "__main__":
    main()

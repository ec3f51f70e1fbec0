"""The cost of each preset: `python benchmarks/dry_runs.py`, several minutes.

Runs the dry run of every preset, teach and student, at full size with random weights, and prints
the minimum memory of its stages and the seconds per step of each on this machine. Crops and maps
are synthetic; the number of people (128, not Market-1501's 751) only affects classifiers. Presets
with identical settings run once. `--device cuda` measures on a GPU.
"""

from __future__ import annotations

import itertools
from typing import Any

import click
import torch

from pivl_distill.config import CONFIGS_DIR, StudentConfig, TeachConfig, load_config
from pivl_distill.console import table
from students.dry_run import dry_run_student
from teachers.clip_loading import joint_dim
from teachers.dry_run import dry_run_teach

EMBEDDED = ("quick", "literal")
"""Presets on the embedded data and CLIP."""
COLUMNS = {
    "stage 1: memory": "stage 1 holds",
    "stage 1: activations": "a step keeps",
    "stage 1: time": "stage 1",
    "stage 2: memory": "stage 2 holds",
    "stage 2: time": "stage 2",
}

Facts = dict[str, object]


def measure(command: str, preset: str, changes: dict[str, Any], known: dict[str, Facts]) -> Facts:
    """The rows of one dry run; `known` caches those of settings that were run before."""
    teach = load_config(TeachConfig, "teach", preset, changes)
    student = load_config(StudentConfig, "student", preset, changes)
    dim = None if student.supervision == "none" else joint_dim(teach.clip.name)
    config = teach if command == "teach" else student
    key = f"{command} {dim} {config.model_dump_json()}"
    if key not in known:
        torch.manual_seed(0)
        rehearsal = (
            dry_run_teach(teach) if command == "teach" else dry_run_student(student, None, dim)
        )
        known[key] = rehearsal.rows
    return known[key]


def brief(fact: object) -> str:
    """A value without the words of its column header.

    >>> brief("at least 1 GiB of weights, gradients and moments and 2 GiB of activations of 64")
    '1 GiB + 2 GiB'
    >>> brief("0.5 s a step on this cpu")
    '0.5 s'
    """
    words = str(fact).split()
    return " + ".join(
        f"{number} {unit}"
        for number, unit in itertools.pairwise(words)
        if unit in ("bytes", "KiB", "MiB", "GiB", "s")
    )


@click.command()
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, or meta: no times.")
@click.option("--data", "spec", default="synthetic:default", show_default=True)
@click.argument("presets", nargs=-1)
def main(device: str, spec: str, presets: tuple[str, ...]) -> None:
    """Run the dry runs of PRESETS, by default all of them."""
    named = presets or sorted(
        path.stem for path in CONFIGS_DIR.glob("*.yaml") if path.stem not in EMBEDDED
    )
    changes = {"data.spec": spec, "device": device}
    known: dict[str, Facts] = {}
    rows = []
    for preset in named:
        for command in ("teach", "student"):
            rows = measure(command, preset, changes, known)
            rows.append((f"{preset}, {command}", *(brief(rows.get(k, "")) for k in COLUMNS)))
    table(f"Dry runs on {device}, at the least", ["preset", *COLUMNS.values()], rows)


if __name__ == "__main__":
    main()

"""Start-up time: `python benchmarks/startup.py`.

`pivl-distill --help`, and the first training step of a student, of stage 1 (`teach`) and of stage 2
(`teach --resume` of a run stopped between the stages), with warm caches: the embedded data rendered
and decoded, a bank available, features of the embedded CLIP cached. Measured from the start of the
process until the device is done; the minimum of several runs, because other load only adds time.
`--device cuda` trains on a GPU.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

import click
import torch
from harness import Row, bound, on_device, on_gpu, report

ROUNDS, GPU_ROUNDS, AT_MOST_S = 5, 2, 8
UNTIL_A_STEP = """
import os, sys
from pivl_distill.training.metrics import MetricAverages
def first(averages, losses):
    print(sum(losses.values()).item())  # synchronises with the device
    os._exit(0)
MetricAverages.add = first
from pivl_distill.cli import main
main(sys.argv[1:])
"""
UNTIL_STAGE_2 = """
import os, sys
from pivl_distill.training.trainer import Stage2Trainer
Stage2Trainer.step = lambda *arguments: os._exit(0)
from pivl_distill.cli import main
main(sys.argv[1:])
"""
ONE_EPOCH_EACH = ("--set", "tuning.identity_epochs=1", "--set", "tuning.part_epochs=1")


def run(*command: str) -> float:
    """Seconds from start to end of a Python process."""
    start = time.perf_counter()
    process = subprocess.run([sys.executable, *command], capture_output=True, text=True)
    seconds = time.perf_counter() - start
    if process.returncode:
        raise click.ClickException(process.stderr)
    return seconds


def rows(device: str) -> Iterator[Row]:
    """Yield each row when it is measured."""
    rounds = GPU_ROUNDS if on_gpu() else ROUNDS
    helped = min(run("-m", "pivl_distill", "--help") for _ in range(rounds))
    yield bound("pivl-distill --help", helped, "s", 0.3)
    with tempfile.TemporaryDirectory() as folder:
        stopped, on_it = f"{folder}/stopped", ("--set", f"device={device}")
        run("-c", UNTIL_STAGE_2, "teach", *ONE_EPOCH_EACH, *on_it, "--out", stopped)
        commands = {
            "a student": ("student", "--bank", f"{stopped}/prompt_bank.safetensors", *on_it),
            "stage 1": ("teach", *on_it),
            "stage 2": ("teach", "--resume", stopped),
        }
        for name, command in commands.items():
            steps = []
            for number in range(rounds):
                out = () if "--resume" in command else ("--out", f"{folder}/{name}-{number}")
                steps.append(run("-c", UNTIL_A_STEP, *command, *out))
            title = f"first training step of {name}, warm caches"
            yield bound(title, min(steps), "s", AT_MOST_S)


@click.command()
@on_device
def main() -> None:
    """Measure and print all rows."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))  # as the commands do
    report("Waiting", rows(torch.get_default_device().type))


if __name__ == "__main__":
    main()

"""How long one waits: `python benchmarks/startup.py`.

`pivl-distill --help`, and the first training step of a student with warm caches: the embedded data
rendered, a bank there. Both from the start of the process; the best of some runs, because what else
the machine does only adds.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from harness import bound, report

ROUNDS = 5
FIRST_STEP = """
import os, sys
from pivl_distill.training import Stage2
step = Stage2.step
def first(*arguments):
    step(*arguments)
    os._exit(0)
Stage2.step = first
from pivl_distill.cli import main
main(["student", "--bank", sys.argv[1], "--out", sys.argv[2]])
"""
TEACH = ("teach", "--config", "quick", "--set", "data.spec=synthetic:default", "--out")


def seconds(*command: str) -> float:
    """From start to end of a Python process."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *command], check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    """Measure and print."""
    helped = min(seconds("-m", "pivl_distill", "--help") for _ in range(ROUNDS))
    with tempfile.TemporaryDirectory() as folder:
        bank, student = f"{folder}/teach", Path(folder) / "student"
        subprocess.run([sys.executable, "-m", "pivl_distill", *TEACH, bank], check=True)
        steps = [seconds("-c", FIRST_STEP, bank, f"{student}-{n}") for n in range(ROUNDS)]
    rows = [
        bound("pivl-distill --help", helped, "s", 0.3),
        bound("first training step of a student, warm caches", min(steps), "s", 8),
    ]
    report("Waiting", rows)


if __name__ == "__main__":
    main()

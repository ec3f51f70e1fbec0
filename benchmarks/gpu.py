"""What a GPU changes, at true sizes: `python benchmarks/gpu.py`, at most ten minutes on one GPU.

Runs the benchmarks that take `--device` one after the other: steps of MobileNetV2 ×0.25, ViT-B/16
and RN50, stage 1's text side with CLIP ViT-B/16, the part contrast, Market-1501-sized evaluation,
cost over size. Rows go to `benchmarks/gpu.json`. Exports on a GPU: `benchmarks/gpu_export.py`.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import click
import torch

BENCHMARKS = (
    "student_step",
    "teacher_step",
    "text_tower",
    "part_contrast",
    "retrieval",
    "scale",
)


@click.command()
@click.option("--minutes", default=10.0, show_default=True, help="Stop what is not done by then.")
def main(minutes: float) -> None:
    """Measure and print."""
    if not torch.cuda.is_available():
        raise click.ClickException("There is no CUDA device here.")
    print(torch.cuda.get_device_name())
    end, missed = time.monotonic() + 60 * minutes, []
    for name in BENCHMARKS:
        script = Path(__file__).parent / f"{name}.py"
        try:
            command = [sys.executable, str(script), "--device", "cuda"]
            if subprocess.run(command, timeout=end - time.monotonic()).returncode:
                missed.append(name)
        except subprocess.TimeoutExpired:
            print(f"{name} was not done in time.")
            break
    if missed:
        raise click.ClickException(f"Targets missed, or not measured, by {', '.join(missed)}.")


if __name__ == "__main__":
    main()

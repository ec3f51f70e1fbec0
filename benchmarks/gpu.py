"""Benchmarks at full size on a GPU: `python benchmarks/gpu.py`, at most ten minutes.

Runs the benchmarks that take `--device` in order of importance: steps of ViT-B/16, RN50 and
MobileNetV2 ×0.25, Market-1501-sized evaluation and re-ranking, the text side of stage 1 with CLIP
ViT-B/16, the part contrast, training batches, cost over size, start-up, and the step after
`torch.compile`. Each has a share of the time; unused time passes to the next ones. A failure does
not stop the others, and rows are written to `benchmarks/gpu.json` as they are measured. For exports
on a GPU see `benchmarks/gpu_export.py`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import torch
from harness import GPU_RESULTS, MISSED

SHARES = {
    "teacher_step": 80,
    "student_step": 50,
    "retrieval": 130,
    "text_encoder": 50,
    "part_contrast": 25,
    "input": 45,
    "scale": 60,
    "startup": 90,
    "compiled_step": 70,
}
"""Seconds of ten minutes."""


@click.command()
@click.option("--minutes", default=10.0, show_default=True, help="What is not done then is ended.")
def main(minutes: float) -> None:
    """Measure and print all rows."""
    if not torch.cuda.is_available():
        raise click.ClickException("No CUDA device is available.")
    print(torch.cuda.get_device_name())
    GPU_RESULTS.unlink(missing_ok=True)
    end, second = time.monotonic() + 60 * minutes, 60 * minutes / sum(SHARES.values())
    fates: dict[str, list[str]] = {}
    names = list(SHARES)
    for number, name in enumerate(names):
        kept_for_others = second * sum(SHARES[other] for other in names[number + 1 :])
        fate = run(name, end - time.monotonic() - kept_for_others)
        fates.setdefault(fate, []).append(name)
    done = fates.pop("Done", [])
    print(f"Finished with all targets met: {', '.join(done) or 'none'}.")
    if fates:
        raise click.ClickException(
            " ".join(f"{fate}: {', '.join(names)}." for fate, names in fates.items())
        )


def run(name: str, seconds: float) -> str:
    """Run a benchmark, kill it with its child processes after a time limit, return its status."""
    script = Path(__file__).with_name(f"{name}.py")
    command = [sys.executable, str(script), "--device", "cuda"]
    process = subprocess.Popen(command, start_new_session=True)
    try:
        code = process.wait(seconds)
    except subprocess.TimeoutExpired:
        return "Not done in time"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    return {0: "Done", MISSED: "Targets missed"}.get(code, "Failed")


if __name__ == "__main__":
    main()

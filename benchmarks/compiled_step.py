"""A student step after `torch.compile`: `python benchmarks/compiled_step.py`.

The step of `student_step.py` with a bank of 1024 dimensions, against the bare backbone and against
the same step uncompiled: the alternatives of `stage2.compile`. Compilation takes a minute on two
cores. It runs before the rounds, is excluded from the ratios, and is printed separately.
"""

from __future__ import annotations

import click
import torch
from harness import clocked, interleaved, on_device, on_gpu, overhead, report, speedup
from student_step import BATCH, ROUNDS, SIZE_HW, Step, bare_step, crops, student_stage, student_step

from pivl_distill.data.sampling import epoch_rng
from pivl_distill.data.store import CropStore
from pivl_distill.training.compile import compile_body, compile_error
from pivl_distill.training.host_memory import keep_freed_memory

DIM, AT_MOST = 1024, 1.0
"""Maximum ratio to the bare backbone's time; a target on the CPU only."""


def compiled_step(store: CropStore) -> Step:
    """The step, compiled by its first calls. Raises if something cannot be compiled."""
    device = torch.get_default_device()
    if (obstacle := compile_error(device)) is not None:
        raise click.ClickException(f"torch.compile does not work here: {obstacle}.")
    stage = student_stage(store, DIM)
    compile_body(stage.network.body, device)
    torch._dynamo.config.suppress_errors = False  # no silent fallback to eager
    return lambda: stage.step(BATCH, epoch_rng(0, 0), 0.5)


@click.command()
@on_device
def main() -> None:
    """Measure and print all rows."""
    store = crops()
    keep_freed_memory(torch.get_default_device())  # as the command does
    compiled = compiled_step(store)
    print(f"Compiling, with the first step: {clocked(compiled):.0f} s")
    ways = {"bare": bare_step(store), "uncompiled": student_step(store, DIM), "compiled": compiled}
    seconds = interleaved(ways, ROUNDS)
    title = f"compiled student step, {len(BATCH)} × {SIZE_HW[0]}×{SIZE_HW[1]}, {DIM} dimensions"
    ours, bare, plain = seconds["compiled"], seconds["bare"], seconds["uncompiled"]
    at_most = None if on_gpu() else AT_MOST
    rows = (
        overhead(f"{title}, against the bare backbone", ours, bare, "s", at_most),
        speedup(f"{title}, against uncompiled", ours, plain, "s", None),
    )
    report("Student's compiled training step", rows)


if __name__ == "__main__":
    main()

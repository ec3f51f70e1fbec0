"""Shared by all benchmarks: interleaved timing, peak memory, rows with a target.

A figure is a ratio to a baseline that runs in the same process, interleaved with ours. It is the
median of the ratios per round, so noise that lasts longer than a round affects both and cancels.
`report` prints the rows and merges them by name into `latest.json`, or into `gpu.json` if
`on_device` moved the tensors to a GPU.
"""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import gc
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import torch

from pivl_distill.console import table
from pivl_distill.storage.files import write_json

RESULTS, GPU_RESULTS = (Path(__file__).with_name(name) for name in ("latest.json", "gpu.json"))
THREADS = min(2, len(os.sched_getaffinity(0)))
"""Of every benchmark and experiment: two, or the one core that `taskset -c 0` leaves."""
LOAD_AT_START = os.getloadavg()[0]
"""Load average of the last minute, which includes the previous benchmark."""

MISSED = 3
"""Exit code of a benchmark that missed a target."""

Measured = float | np.ndarray
"""One number, or one per round [rounds]."""


def on_device(main: Callable[..., None]) -> Callable[..., None]:
    """A benchmark command with `--device` for its tensors; two threads, seed 0."""

    @click.option("--device", default="cpu", show_default=True, help="cpu or cuda.")
    @functools.wraps(main)
    def wrapped(*args: object, device: str, **kwargs: object) -> None:
        torch.set_num_threads(THREADS)
        torch.set_default_device(device)
        torch.manual_seed(0)
        main(*args, **kwargs)

    return wrapped


def on_gpu() -> bool:
    """Whether tensors are created on a GPU."""
    return torch.get_default_device().type == "cuda"


@dataclass(frozen=True)
class Row:
    """One figure; `make bench` prints it and `latest.json` holds it."""

    name: str
    value: float
    """Our value in `unit`; the median over rounds."""
    unit: str
    baseline: float | None
    """The baseline's value in the same unit, if there is a baseline; the median over rounds."""
    ratio: float | None
    """Ratio to the baseline that `target` refers to: speed-up, or relative time.

    The median of the rounds' own ratios, so not exactly that of `value` and `baseline`.
    """
    target: str | None
    ok: bool | None
    """Whether the target is met; None without a target."""


def speedup(
    name: str, value: Measured, baseline: Measured, unit: str, at_least: float | None
) -> Row:
    """Ours against a slower (or larger) baseline: ratio = baseline ÷ value."""
    ratio = median(baseline / value)
    ok = None if at_least is None else ratio >= at_least
    target = at_least and f"≥ {at_least:g}×"
    return Row(name, median(value), unit, median(baseline), ratio, target, ok)


def overhead(
    name: str, value: Measured, baseline: Measured, unit: str, at_most: float | None
) -> Row:
    """Ours against a lower limit: ratio = value ÷ baseline."""
    ratio = median(value / baseline)
    ok = None if at_most is None else ratio <= at_most
    target = at_most and f"≤ {at_most:g}×"
    return Row(name, median(value), unit, median(baseline), ratio, target, ok)


def bound(name: str, value: float, unit: str, at_most: float) -> Row:
    """A figure that must stay below a fixed value."""
    return Row(name, value, unit, None, None, f"≤ {at_most:g} {unit}", value <= at_most)


def median(measured: Measured) -> float:
    """Median over rounds."""
    return float(np.median(measured))


def interleaved(
    ways: Mapping[str, Callable[[], object]], rounds: int, warmup: int = 1
) -> dict[str, np.ndarray]:
    """Seconds of each function [rounds]; every round runs all of them in order."""
    seconds = [[clocked(run) for run in ways.values()] for _ in range(warmup + rounds)]
    return dict(zip(ways, np.array(seconds[warmup:]).T, strict=True))


def clocked(run: Callable[[], object]) -> float:
    """Seconds until the device has finished."""
    start = time.perf_counter()
    run()
    if on_gpu():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def peak_bytes(run: Callable[[], object]) -> int:
    """Peak memory of `run` above its start: of the GPU, or resident (Linux)."""
    gc.collect()
    if on_gpu():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak, VmHWM
    before = resident_bytes("VmRSS")
    run()
    return resident_bytes("VmHWM") - before


def resident_bytes(field: str) -> int:
    match = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert match, f"/proc/self/status has no {field}"
    return int(match[1]) * 1024


def report(title: str, rows: Iterable[Row]) -> None:
    """Print rows as a table, with the number of threads and the load of the machine.

    Each is put into the file of results as soon as it is there, over a row of the same name, so
    that what breaks or stops the benchmark takes none of those before. Ends the process with exit
    code `MISSED` if a target is missed, so it comes last.
    """
    done = []
    for row in rows:
        _keep(row)
        done.append(row)
    title += f" · {torch.get_num_threads()} threads, load average {LOAD_AT_START:.1f} at the start"
    columns = ("figure", "ours", "baseline", "ratio", "target", "met")
    table(title, columns, [_cells(row) for row in done])
    if any(row.ok is False for row in done):
        sys.exit(MISSED)


def _keep(row: Row) -> None:
    file = GPU_RESULTS if on_gpu() else RESULTS
    rows = json.loads(file.read_text()) if file.exists() else []
    by_name = {old["name"]: old for old in rows} | {row.name: dataclasses.asdict(row)}
    write_json(file, list(by_name.values()))


def _cells(row: Row) -> tuple[str, ...]:
    baseline = "" if row.baseline is None else f"{row.baseline:,.4g} {row.unit}"
    ratio = "" if row.ratio is None else f"{row.ratio:.2f}×"
    met = {None: "", True: "yes", False: "NO"}[row.ok]
    return row.name, f"{row.value:,.4g} {row.unit}", baseline, ratio, row.target or "", met

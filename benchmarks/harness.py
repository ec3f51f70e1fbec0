"""What all benchmarks share: interleaved timing, peak memory, rows with a target.

A figure is a ratio to a baseline that ran in the same process, turn about with ours, so that noise
of the machine meets both. `report` prints the rows and merges them by name into `latest.json`, or
into `gpu.json` where `on_device` has moved everything to a GPU.
"""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import gc
import json
import re
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import torch

from pivl_distill.console import table
from pivl_distill.files import write_json

FOLDER = Path(__file__).parent
THREADS = 2


def on_device(main: Callable[..., None]) -> Callable[..., None]:
    """A benchmark with an option `--device`, where its tensors are made; two threads, seed 0."""

    @click.option("--device", default="cpu", show_default=True, help="cpu or cuda.")
    @functools.wraps(main)
    def wrapped(*args: object, device: str, **kwargs: object) -> None:
        torch.set_num_threads(THREADS)
        torch.set_default_device(device)
        torch.manual_seed(0)
        main(*args, **kwargs)

    return wrapped


def on_gpu() -> bool:
    """Whether tensors are made on a GPU."""
    return torch.get_default_device().type == "cuda"


@dataclass(frozen=True)
class Row:
    """One figure; `make bench` prints it and `latest.json` holds it."""

    name: str
    value: float
    """Ours, in `unit`."""
    unit: str
    baseline: float | None
    """The baseline's value in the same unit, where there is a baseline."""
    ratio: float | None
    """What `target` speaks of where there is a baseline: times faster, or times as long."""
    target: str | None
    ok: bool | None
    """Whether the target is met; None where there is none, as for a limit shown beside a figure."""


def speedup(name: str, value: float, baseline: float, unit: str, at_least: float | None) -> Row:
    """Ours against a slower (or larger) baseline: ratio = baseline ÷ value."""
    ratio = baseline / value
    ok = None if at_least is None else ratio >= at_least
    return Row(name, value, unit, baseline, ratio, at_least and f"≥ {at_least:g}×", ok)


def overhead(name: str, value: float, baseline: float, unit: str, at_most: float | None) -> Row:
    """Ours against a limit that it cannot beat: ratio = value ÷ baseline."""
    ratio = value / baseline
    ok = None if at_most is None else ratio <= at_most
    return Row(name, value, unit, baseline, ratio, at_most and f"≤ {at_most:g}×", ok)


def bound(name: str, value: float, unit: str, at_most: float) -> Row:
    """A figure that must stay below a fixed value."""
    return Row(name, value, unit, None, None, f"≤ {at_most:g} {unit}", value <= at_most)


def interleaved(
    ways: Mapping[str, Callable[[], object]], rounds: int, warmup: int = 1
) -> dict[str, float]:
    """Median seconds of each way; every round runs all of them, one after the other."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(warmup + rounds):
        for name, run in ways.items():
            taken = clocked(run)
            if number >= warmup:
                seconds[name].append(taken)
    return {name: statistics.median(values) for name, values in seconds.items()}


def clocked(run: Callable[[], object]) -> float:
    """Seconds until the device is done with it."""
    start = time.perf_counter()
    run()
    if on_gpu():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def peak_bytes(run: Callable[[], object]) -> int:
    """How far memory rises above its start while `run` runs: the GPU's, or resident (Linux)."""
    gc.collect()
    if on_gpu():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak, VmHWM
    before = _resident_bytes("VmRSS")
    run()
    return _resident_bytes("VmHWM") - before


def _resident_bytes(field: str) -> int:
    match = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert match, f"/proc/self/status has no {field}"
    return int(match[1]) * 1024


def report(title: str, rows: Sequence[Row]) -> None:
    """Print rows as a table and put them into the file of results, over rows of the same names.

    Ends the process with exit code 1 if a target is missed, so it comes last.
    """
    columns = ("figure", "ours", "baseline", "ratio", "target", "met")
    table(title, columns, [_cells(row) for row in rows])
    file = FOLDER / ("gpu.json" if on_gpu() else "latest.json")
    kept = {row["name"]: row for row in (json.loads(file.read_text()) if file.exists() else [])}
    kept.update({row.name: dataclasses.asdict(row) for row in rows})
    write_json(file, list(kept.values()))
    if any(row.ok is False for row in rows):
        sys.exit(1)


def _cells(row: Row) -> tuple[str, ...]:
    baseline = "" if row.baseline is None else f"{row.baseline:,.4g} {row.unit}"
    ratio = "" if row.ratio is None else f"{row.ratio:.2f}×"
    met = {None: "", True: "yes", False: "NO"}[row.ok]
    return row.name, f"{row.value:,.4g} {row.unit}", baseline, ratio, row.target or "", met

"""Compare ways of running a network (ONNX Runtime, engines, eager) for `pivl-distill bench`.

`export.latency` does the interleaved timing, `export.peak_memory` measures memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from export.latency import random_inputs, time_interleaved
from pivl_distill.runtime.onnx_session import ExecutionDevice
from pivl_distill.runtime.open_artifact import open_network


@dataclass(frozen=True)
class BenchmarkCase:
    """A function that runs a network on `batch` crops, with its device and CPU threads."""

    name: str
    device: str
    threads: int
    batch: int
    run: Callable[[], object]


@dataclass(frozen=True)
class BenchmarkResult:
    """Percentiles of milliseconds per batch over `runs`, and crops per second at the median."""

    name: str
    device: str
    threads: int
    batch: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    crops_per_second: float
    runs: int


def run_benchmark(
    cases: Sequence[BenchmarkCase], *, max_runs: int = 100, max_seconds: float = 20.0
) -> list[BenchmarkResult]:
    """Time all cases, interleaved; limits as for `time_interleaved`."""
    times = time_interleaved(
        [case.run for case in cases], max_repeats=max_runs, max_seconds=max_seconds
    )
    return [_result(case, times_ms) for case, times_ms in zip(cases, times, strict=True)]


def load_and_run_once(path: Path, device: ExecutionDevice, threads: int, batch: int) -> None:
    """Load a file and run one batch: the function that `peak_memory` measures."""
    session = open_network(path, device, threads)
    session.run(None, random_inputs(session, batch))


def _result(case: BenchmarkCase, times_ms: list[float]) -> BenchmarkResult:
    p50, p90, p99 = (float(value) for value in np.percentile(times_ms, (50, 90, 99)))
    rate = 1000 * case.batch / p50
    return BenchmarkResult(
        case.name, case.device, case.threads, case.batch, p50, p90, p99, rate, len(times_ms)
    )

"""What running a network costs in time, each way of running it turn about with the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from export.latency import random_inputs, time_interleaved
from pivl_distill.runtime.onnx_session import open_session


@dataclass(frozen=True)
class BenchmarkCase:
    """One way to run one network on `batch` crops."""

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
    ways: Sequence[BenchmarkCase], *, max_runs: int = 100, max_seconds: float = 20.0
) -> list[BenchmarkResult]:
    """Time all ways until `max_runs` or `max_seconds`, but at least three turns of each."""
    times = time_interleaved(
        [way.run for way in ways], max_repeats=max_runs, max_seconds=max_seconds
    )
    return [_timing(way, times_ms) for way, times_ms in zip(ways, times, strict=True)]


def load_and_run_once(onnx_path: Path, provider: str, threads: int, batch: int) -> None:
    """Load a file and run one batch: what `peak_memory` measures of it."""
    session = open_session(onnx_path, threads=threads, providers=[provider])
    session.run(None, random_inputs(session, batch))


def _timing(way: BenchmarkCase, times_ms: list[float]) -> BenchmarkResult:
    p50, p90, p99 = (float(value) for value in np.percentile(times_ms, (50, 90, 99)))
    rate = 1000 * way.batch / p50
    return BenchmarkResult(
        way.name, way.device, way.threads, way.batch, p50, p90, p99, rate, len(times_ms)
    )

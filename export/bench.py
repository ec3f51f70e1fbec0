"""How long each way of running a network takes, measured turn about in one run.

Every round runs all ways once, so that noise of the machine meets each alike. Between two runs
there is a short rest: the threads of ONNX Runtime and of PyTorch spin for a while after their work,
which would be counted to whoever comes next. Reading and resizing images is left out: it costs the
same whatever runs the network.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort

from pivl_distill.runtime.session import open_session

REST_S = 0.005


@dataclass(frozen=True)
class Way:
    """One way to run one network on `batch` crops, and its name in four words."""

    name: str
    device: str
    threads: int
    batch: int
    run: Callable[[], object]


@dataclass(frozen=True)
class Timing:
    """Percentiles of milliseconds per batch over `rounds`, and crops per second at the median."""

    name: str
    device: str
    threads: int
    batch: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    crops_per_second: float
    rounds: int


def time_ways(
    ways: Sequence[Way],
    *,
    warmup: int = 3,
    max_rounds: int = 100,
    max_seconds: float = 20.0,
    rest_s: float = REST_S,
) -> list[Timing]:
    """Time all ways until `max_rounds` or `max_seconds`, but at least three rounds."""
    times_ms: list[list[float]] = [[] for _ in ways]
    for _ in range(warmup):
        for way in ways:
            way.run()
    start = time.perf_counter()
    rounds = 0
    while rounds < 3 or (rounds < max_rounds and time.perf_counter() - start < max_seconds):
        for way, milliseconds in zip(ways, times_ms, strict=True):
            time.sleep(rest_s)
            before = time.perf_counter()
            way.run()
            milliseconds.append(1000 * (time.perf_counter() - before))
        rounds += 1
    return [_timing(way, times) for way, times in zip(ways, times_ms, strict=True)]


def random_feed(session: ort.InferenceSession, batch: int) -> dict[str, np.ndarray]:
    """What a session takes: random crops, normalised or as uint8, and camera 0 where it asks."""
    rng = np.random.default_rng(0)
    feed: dict[str, np.ndarray] = {}
    for taken in session.get_inputs():
        shape = (batch, *taken.shape[1:])
        if taken.type == "tensor(uint8)":
            feed[taken.name] = rng.integers(0, 256, shape, dtype=np.uint8)
        elif taken.type == "tensor(int64)":
            feed[taken.name] = np.zeros(shape, np.int64)
        else:
            feed[taken.name] = rng.standard_normal(shape, dtype=np.float32)
    return feed


def run_once(onnx_path: Path, provider: str, threads: int, batch: int) -> None:
    """Load a file and run one batch: what `peak_memory` measures of it."""
    session = open_session(onnx_path, threads=threads, providers=[provider])
    session.run(None, random_feed(session, batch))


def _timing(way: Way, times_ms: list[float]) -> Timing:
    p50, p90, p99 = (float(value) for value in np.percentile(times_ms, (50, 90, 99)))
    rate = 1000 * way.batch / p50
    return Timing(way.name, way.device, way.threads, way.batch, p50, p90, p99, rate, len(times_ms))

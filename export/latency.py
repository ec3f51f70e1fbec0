"""How long a session takes for one batch on this machine: median and 90th percentile.

Single runs differ by tens of per cent on a shared machine, so a mean would say little. Reading,
resizing and normalising images is left out on purpose: they cost the same for every network.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import onnxruntime as ort


@dataclass(frozen=True)
class Latency:
    """Milliseconds per batch of `batch` images, over `repeats` timed runs."""

    batch: int
    median_ms: float
    p90_ms: float
    repeats: int


def measure_latency(
    session: ort.InferenceSession,
    size_hw: tuple[int, int],
    batch: int,
    *,
    warmup: int = 3,
    max_repeats: int = 100,
    max_seconds: float = 5.0,
) -> Latency:
    """Time runs on random images until `max_repeats` or `max_seconds`, but at least three.

    A graph that takes cameras gets camera 0.
    """
    images = np.random.default_rng(0).standard_normal((batch, 3, *size_hw), dtype=np.float32)
    names = [taken.name for taken in session.get_inputs()]
    inputs = {names[0]: images} | {name: np.zeros(batch, np.int64) for name in names[1:]}
    for _ in range(warmup):
        session.run(None, inputs)
    times_ms: list[float] = []
    start = time.perf_counter()
    while len(times_ms) < 3 or (
        len(times_ms) < max_repeats and time.perf_counter() - start < max_seconds
    ):
        before = time.perf_counter()
        session.run(None, inputs)
        times_ms.append(1000 * (time.perf_counter() - before))
    median, p90 = np.percentile(times_ms, (50, 90))
    return Latency(batch, float(median), float(p90), len(times_ms))

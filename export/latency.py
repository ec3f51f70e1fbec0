"""How long sessions take for one batch on this machine: median and 90th percentile.

Single runs differ by tens of per cent on a shared machine, so a mean would say little, and whatever
is compared takes turns, so that what disturbs one disturbs all. A turn is a rest and then a short
burst of runs. The rest outlasts the threads of ONNX Runtime and of PyTorch, which spin for some 30
milliseconds after their work and would be counted to whoever comes next. The burst starts with runs
that are not counted: after a rest caches are cold and the processor is slow, and a device in use is
neither. Reading and resizing images is left out on purpose: it costs the same for every network.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnxruntime as ort

REST_S = 0.05
BURST_RUNS, BURST_UNTIMED = 10, 2
BURST_S = 0.2
"""Of slow runs a burst has fewer: none begins after this, but one is not counted and one is."""


@dataclass(frozen=True)
class Latency:
    """Milliseconds per batch of `batch` images, over `repeats` timed runs."""

    batch: int
    median_ms: float
    p90_ms: float
    repeats: int


def measure_latency(
    sessions: Sequence[ort.InferenceSession],
    batch: int,
    *,
    max_repeats: int = 100,
    max_seconds: float = 5.0,
) -> list[Latency]:
    """Time each session on random images, as `time_interleaved` does."""
    runs = [partial(session.run, None, random_inputs(session, batch)) for session in sessions]
    times = time_interleaved(runs, max_repeats=max_repeats, max_seconds=max_seconds)
    percentiles = [np.percentile(times_ms, (50, 90)).tolist() for times_ms in times]
    return [
        Latency(batch, p50, p90, len(times_ms))
        for (p50, p90), times_ms in zip(percentiles, times, strict=True)
    ]


def time_interleaved(
    runs: Sequence[Callable[[], object]],
    *,
    max_repeats: int = 100,
    max_seconds: float = 5.0,
) -> list[list[float]]:
    """Milliseconds of each run, in turns until all have `max_repeats`, or `max_seconds`.

    There are at least three turns, after one that does not count. Each has an order of its own, so
    that none always comes after the same other. Quick runs are timed more often than slow ones.
    """
    order = random.Random(0)
    times_ms: list[list[float]] = [[] for _ in runs]

    def turn() -> None:
        for number in order.sample(range(len(runs)), len(runs)):
            times_ms[number] += _burst(runs[number])

    turn()
    for taken in times_ms:
        taken.clear()
    start, turns = time.perf_counter(), 0
    while turns < 3 or (
        min(map(len, times_ms), default=max_repeats) < max_repeats
        and time.perf_counter() - start < max_seconds
    ):
        turn()
        turns += 1
    return times_ms


def _burst(run: Callable[[], object]) -> list[float]:
    """Milliseconds of up to `BURST_RUNS` runs back to back, after a rest and some untimed ones."""
    time.sleep(REST_S)
    end = time.perf_counter() + BURST_S
    for _ in range(BURST_UNTIMED):
        run()
        if time.perf_counter() > end:
            break
    times_ms: list[float] = []
    while not times_ms or (len(times_ms) < BURST_RUNS and time.perf_counter() < end):
        before = time.perf_counter()
        run()
        times_ms.append(1000 * (time.perf_counter() - before))
    return times_ms


def random_inputs(session: ort.InferenceSession, batch: int) -> dict[str, np.ndarray]:
    """Images of the type and shape that the graph takes, and camera 0."""
    images, *others = session.get_inputs()
    shape = (batch, *images.shape[1:])
    dtype = np.uint8 if images.type == "tensor(uint8)" else np.float32
    drawn = np.random.default_rng(0).uniform(0, 255, shape)
    feed = {other.name: np.zeros(batch, np.int64) for other in others}
    return {images.name: drawn.astype(dtype)} | feed

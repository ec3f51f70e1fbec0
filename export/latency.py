"""How long sessions take for one batch on this machine: median and 90th percentile.

Single runs differ by tens of per cent on a shared machine, so a mean would say little, and whatever
is compared takes turns, so that what disturbs one disturbs all. Between two runs there is a short
rest: the threads of ONNX Runtime and of PyTorch spin for a while after their work, which would be
counted to whoever comes next. Reading and resizing images is left out on purpose: it costs the same
for every network.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnxruntime as ort

REST_S = 0.02


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
    warmup: int = 3,
    max_repeats: int = 100,
    max_seconds: float = 5.0,
) -> list[Latency]:
    """Time each session on random images, as `in_turns` does."""
    runs = [partial(session.run, None, random_feed(session, batch)) for session in sessions]
    times = in_turns(runs, warmup=warmup, max_repeats=max_repeats, max_seconds=max_seconds)
    medians = [np.percentile(times_ms, (50, 90)).tolist() for times_ms in times]
    return [Latency(batch, p50, p90, len(times[0])) for p50, p90 in medians]


def in_turns(
    runs: Sequence[Callable[[], object]],
    *,
    warmup: int = 3,
    max_repeats: int = 100,
    max_seconds: float = 5.0,
) -> list[list[float]]:
    """Milliseconds of each run, in turns until `max_repeats` or `max_seconds`.

    There are at least three turns, after `warmup` that do not count. Each has an order of its own,
    so that none always comes after the same other.
    """
    times_ms: list[list[float]] = [[] for _ in runs]
    order = random.Random(0)

    def turn() -> None:
        for number in order.sample(range(len(runs)), len(runs)):
            time.sleep(REST_S)
            before = time.perf_counter()
            runs[number]()
            times_ms[number].append(1000 * (time.perf_counter() - before))

    for _ in range(warmup):
        turn()
    start, turns = time.perf_counter(), 0
    while turns < 3 or (turns < max_repeats and time.perf_counter() - start < max_seconds):
        turn()
        turns += 1
    return [taken[warmup:] for taken in times_ms]


def random_feed(session: ort.InferenceSession, batch: int) -> dict[str, np.ndarray]:
    """Images of the type and shape that the graph takes, and camera 0."""
    images, *others = session.get_inputs()
    shape = (batch, *images.shape[1:])
    dtype = np.uint8 if images.type == "tensor(uint8)" else np.float32
    drawn = np.random.default_rng(0).uniform(0, 255, shape)
    feed = {other.name: np.zeros(batch, np.int64) for other in others}
    return {images.name: drawn.astype(dtype)} | feed

"""How long sessions take for one batch on this machine: median and 90th percentile.

Single runs differ by tens of per cent on a shared machine, so a mean would say little, and several
sessions take turns, so that what disturbs one disturbs all. Reading and resizing images is left out
on purpose: it costs the same for every network.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
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
    sessions: Sequence[ort.InferenceSession],
    batch: int,
    *,
    warmup: int = 3,
    max_repeats: int = 100,
    max_seconds: float = 5.0,
) -> list[Latency]:
    """Time each session on random images, in turns, until `max_repeats` or `max_seconds`.

    There are at least three turns. A graph that takes cameras gets camera 0.
    """
    feeds = [_feed(session, batch) for session in sessions]
    times_ms: list[list[float]] = [[] for _ in sessions]

    def turn() -> None:
        for session, feed, taken in zip(sessions, feeds, times_ms, strict=True):
            before = time.perf_counter()
            session.run(None, feed)
            taken.append(1000 * (time.perf_counter() - before))

    for _ in range(warmup):
        turn()
    start, turns = time.perf_counter(), 0
    while turns < 3 or (turns < max_repeats and time.perf_counter() - start < max_seconds):
        turn()
        turns += 1
    timed = [np.percentile(taken[warmup:], (50, 90)).tolist() for taken in times_ms]
    return [Latency(batch, median, p90, turns) for median, p90 in timed]


def _feed(session: ort.InferenceSession, batch: int) -> dict[str, np.ndarray]:
    """Images of the type and shape that the graph takes, and camera 0."""
    images, *others = session.get_inputs()
    shape = (batch, *images.shape[1:])
    dtype = np.uint8 if images.type == "tensor(uint8)" else np.float32
    drawn = np.random.default_rng(0).uniform(0, 255, shape)
    feed = {other.name: np.zeros(batch, np.int64) for other in others}
    return {images.name: drawn.astype(dtype)} | feed

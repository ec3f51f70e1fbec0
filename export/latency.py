"""Measure latency on this machine: interleaved runs, reported as median and 90th percentile.

`time_interleaved` times any functions, `measure_latency` open networks for the manifest;
`export.benchmark` builds on both for `pivl-distill bench`.

On a shared machine single runs differ by tens of per cent, so medians are reported, and the runs
under comparison are interleaved, so that a disturbance affects all of them. In each round every
candidate sleeps and then runs in a short burst. The sleep is longer than the roughly 30 ms for
which the threads of ONNX Runtime and PyTorch keep spinning after their work, which would slow down
the next candidate. The first runs of a burst are not timed: after a sleep, caches are cold and the
clock rate is low, unlike on a device in use. Left out on purpose: reading and resizing images,
which costs the same for every network.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from pivl_distill.runtime.open_artifact import Session

SLEEP_S = 0.05
BURST_RUNS, BURST_UNTIMED = 10, 2
BURST_S = 0.2
"""No run of a burst starts after this time, but at least one untimed and one timed run are made."""


@dataclass(frozen=True)
class Latency:
    """Milliseconds per batch of `batch` images, over `repeats` timed runs."""

    batch: int
    median_ms: float
    p90_ms: float
    repeats: int


def measure_latency(
    sessions: Sequence[Session],
    batch: int,
    *,
    max_repeats: int = 100,
    max_seconds: float = 5.0,
) -> list[Latency]:
    """Time each session on a random batch; limits as for `time_interleaved`."""
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
    """Return the durations of each function in milliseconds.

    Rounds are repeated until every function was timed `max_repeats` times, or for `max_seconds`,
    but at least three times after one warm-up round. The order within a round is random. Fast
    functions are timed more often than slow ones.
    """
    order = random.Random(0)  # noqa: S311  (no secret: the order of timings)
    times_ms: list[list[float]] = [[] for _ in runs]

    def run_round() -> None:
        for number in order.sample(range(len(runs)), len(runs)):
            times_ms[number] += _burst(runs[number])

    run_round()
    for durations in times_ms:
        durations.clear()
    start, rounds = time.perf_counter(), 0
    while rounds < 3 or (
        min(map(len, times_ms), default=max_repeats) < max_repeats
        and time.perf_counter() - start < max_seconds
    ):
        run_round()
        rounds += 1
    return times_ms


def _burst(run: Callable[[], object]) -> list[float]:
    """Return the milliseconds of up to `BURST_RUNS` consecutive runs after sleep and warm-up."""
    time.sleep(SLEEP_S)
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


def random_inputs(session: Session, batch: int) -> dict[str, np.ndarray]:
    """Return random images of the graph's input type and shape, and camera id 0 if it takes one."""
    images, *others = session.get_inputs()
    shape = (batch, *images.shape[1:])
    dtype = np.uint8 if images.type == "tensor(uint8)" else np.float32
    values = np.random.default_rng(0).uniform(0, 255, shape)
    feed = {other.name: np.zeros(batch, np.int64) for other in others}
    return {images.name: values.astype(dtype)} | feed

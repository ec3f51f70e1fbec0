"""Timing is interleaved and limited by count and by time, on a clock that the test controls."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest

import export.latency
from export.latency import measure_latency, random_inputs, time_interleaved
from pivl_distill.runtime.onnx_session import open_session


class Clock:
    """Time advances only while sleeping and during runs, each of its next duration."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.calls = 0.0, []
        monkeypatch.setattr(export.latency.time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(export.latency.time, "sleep", self.advance)
        monkeypatch.setattr(export.latency, "SLEEP_S", 0.02)
        monkeypatch.setattr(export.latency, "BURST_S", 0.2)

    def advance(self, seconds: float) -> None:
        self.now += seconds

    def run(self, name: str, *milliseconds: float) -> Callable[[], None]:
        durations = list(milliseconds)

        def run() -> None:
            self.calls.append(name)
            self.advance((durations.pop(0) if len(durations) > 1 else durations[0]) / 1000)

        return run


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_bursts_are_interleaved_and_each_run_is_timed_alone(clock):
    # The first round and the first two runs of each burst are not counted.
    a = clock.run("a", *[2] * 12, *[40, 40, *range(1, 11)] * 3)
    runs = [a, clock.run("b", 5), clock.run("c", 7)]
    a_ms, b_ms, c_ms = time_interleaved(runs, max_repeats=30)
    assert a_ms == pytest.approx([*range(1, 11)] * 3)
    assert b_ms == pytest.approx([5] * 30)
    assert c_ms == pytest.approx([7] * 30)
    bursts = [clock.calls[start : start + 12] for start in range(0, len(clock.calls), 12)]
    assert all(len(set(burst)) == 1 for burst in bursts)
    rounds = ["".join(b[0] for b in bursts[start : start + 3]) for start in range(0, 12, 3)]
    assert {"".join(sorted(round_)) for round_ in rounds} == {"abc"}
    assert len(set(rounds)) > 1


def test_bursts_of_slow_runs_are_short(clock):
    time_interleaved([clock.run("a", 900)], max_seconds=0)
    assert len(clock.calls) == 4 * 2  # four rounds: one untimed, one timed run each
    clock.calls.clear()
    time_interleaved([clock.run("b", 60)], max_seconds=0)
    assert len(clock.calls) == 4 * 4


def test_slow_runs_stop_at_the_time_limit_but_run_three_times(clock):
    assert len(time_interleaved([clock.run("a", 280)], max_seconds=4)[0]) == 7
    assert len(time_interleaved([clock.run("a", 9000)], max_seconds=2)[0]) == 3


def test_timing_no_runs_takes_no_time(clock):
    assert time_interleaved([]) == []
    assert clock.now == 0


def test_rounds_continue_until_the_slowest_has_enough_repeats(clock):
    quick, slow = time_interleaved([clock.run("quick", 1), clock.run("slow", 300)], max_repeats=5)
    assert (len(quick), len(slow)) == (50, 5)


def test_latency_has_median_and_90th_percentile(clock):
    milliseconds = [10, 11, 12, 13, 14, 15, 16, 17, 18, 19]
    first = clock.run("first", *[9] * 12, *[1, 1, *milliseconds] * 3)
    second = clock.run("second", 4)

    def session(run: Callable[[], None]) -> SimpleNamespace:
        images = SimpleNamespace(name="images", type="tensor(float)", shape=["batch", 3, 8, 4])
        return SimpleNamespace(get_inputs=lambda: [images], run=lambda *_: run())

    latencies = measure_latency([session(first), session(second)], 4, max_repeats=30)
    assert [(latency.batch, latency.repeats) for latency in latencies] == [(4, 30)] * 2
    assert latencies[0].median_ms == pytest.approx(14.5)
    assert latencies[0].p90_ms == pytest.approx(18.1)
    assert latencies[1].median_ms == pytest.approx(4)


@pytest.mark.parametrize("bake", [False, True])
def test_random_inputs_match_the_graph_inputs(deploy, bake):
    path = deploy(cameras=2, bake_preprocessing=bake) / "model.onnx"
    feed = random_inputs(open_session(path), 3)
    images = ((3, 64, 32, 3), np.uint8) if bake else ((3, 3, 64, 32), np.float32)
    shapes_and_dtypes = {name: (value.shape, value.dtype) for name, value in feed.items()}
    assert shapes_and_dtypes == {"images": images, "cameras": ((3,), np.int64)}

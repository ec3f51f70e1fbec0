"""Timing is in turns and bounded by count and by time, on a clock that the test controls."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest

import export.latency
from export.latency import measure_latency, random_inputs, time_interleaved
from pivl_distill.runtime.onnx_session import open_session


class Clock:
    """Time passes only by resting and by runs, each as long as its next duration."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.ran = 0.0, []
        monkeypatch.setattr(export.latency.time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(export.latency.time, "sleep", self.passes)
        monkeypatch.setattr(export.latency, "SLEEP_S", 0.02)
        monkeypatch.setattr(export.latency, "BURST_S", 0.2)

    def passes(self, seconds: float) -> None:
        self.now += seconds

    def run(self, name: str, *milliseconds: float) -> Callable[[], None]:
        durations = list(milliseconds)

        def run() -> None:
            self.ran.append(name)
            self.passes((durations.pop(0) if len(durations) > 1 else durations[0]) / 1000)

        return run


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_every_turn_has_a_burst_of_all_runs_and_only_their_own_time_counts(clock):
    # The first turn does not count, nor do the first two runs of any.
    a = clock.run("a", *[2] * 12, *[40, 40, *range(1, 11)] * 3)
    runs = [a, clock.run("b", 5), clock.run("c", 7)]
    a_ms, b_ms, c_ms = time_interleaved(runs, max_repeats=30)
    assert a_ms == pytest.approx([*range(1, 11)] * 3)
    assert b_ms == pytest.approx([5] * 30)
    assert c_ms == pytest.approx([7] * 30)
    bursts = [clock.ran[start : start + 12] for start in range(0, len(clock.ran), 12)]
    assert all(len(set(burst)) == 1 for burst in bursts)
    turns = ["".join(b[0] for b in bursts[start : start + 3]) for start in range(0, 12, 3)]
    assert {"".join(sorted(turn)) for turn in turns} == {"abc"}
    assert len(set(turns)) > 1


def test_a_burst_of_slow_runs_is_short(clock):
    time_interleaved([clock.run("a", 900)], max_seconds=0)
    assert len(clock.ran) == 4 * 2  # four turns: one untimed, one timed
    clock.ran.clear()
    time_interleaved([clock.run("b", 60)], max_seconds=0)
    assert len(clock.ran) == 4 * 4


def test_slow_runs_stop_at_the_time_limit_but_run_three_times(clock):
    assert len(time_interleaved([clock.run("a", 280)], max_seconds=4)[0]) == 7
    assert len(time_interleaved([clock.run("a", 9000)], max_seconds=2)[0]) == 3


def test_nothing_is_timed_in_no_time(clock):
    assert time_interleaved([]) == []
    assert clock.now == 0


def test_turns_go_on_until_the_slowest_was_timed_often_enough(clock):
    quick, slow = time_interleaved([clock.run("quick", 1), clock.run("slow", 300)], max_repeats=5)
    assert (len(quick), len(slow)) == (50, 5)


def test_sessions_are_described_by_median_and_90th_percentile(clock):
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
def test_feeds_are_what_the_graph_takes(deploy, bake):
    path = deploy(cameras=2, bake_preprocessing=bake) / "model.onnx"
    feed = random_inputs(open_session(path), 3)
    images = ((3, 64, 32, 3), np.uint8) if bake else ((3, 3, 64, 32), np.float32)
    kinds = {name: (value.shape, value.dtype) for name, value in feed.items()}
    assert kinds == {"images": images, "cameras": ((3,), np.int64)}

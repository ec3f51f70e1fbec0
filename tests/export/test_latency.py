"""Timing is bounded by count and by time, in turns, on a clock that the test controls."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

import export.graph
import export.latency
from export.latency import measure_latency
from export.session import open_session


class Clock:
    def __init__(self, monkeypatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(export.latency.time, "perf_counter", lambda: self.now)


class FakeSession:
    """Each run advances the clock by the next duration, then by the last one for ever."""

    def __init__(self, clock: Clock, milliseconds: list[float], log: list | None = None) -> None:
        self.clock, self.milliseconds, self.feeds = clock, milliseconds, []
        self.log = [] if log is None else log

    def get_inputs(self):
        images = SimpleNamespace(name="images", shape=["batch", 3, 64, 32], type="tensor(float)")
        return [images, SimpleNamespace(name="cameras", shape=["batch"], type="tensor(int64)")]

    def run(self, _, inputs):
        duration = self.milliseconds.pop(0) if len(self.milliseconds) > 1 else self.milliseconds[0]
        self.clock.now += duration / 1000
        self.feeds.append(inputs)
        self.log.append(self)


def test_warm_up_runs_are_not_timed(monkeypatch):
    session = FakeSession(Clock(monkeypatch), [900, 900, 10, 20, 30, 40, 50])
    (latency,) = measure_latency([session], 4, warmup=2, max_repeats=5)
    assert (latency.batch, latency.repeats) == (4, 5)
    assert latency.median_ms == pytest.approx(30)
    assert latency.p90_ms == pytest.approx(46)
    assert {feed["images"].shape for feed in session.feeds} == {(4, 3, 64, 32)}
    assert session.feeds[0]["cameras"].tolist() == [0] * 4


def test_sessions_take_turns_and_keep_their_own_times(monkeypatch):
    clock, log = Clock(monkeypatch), []
    slow, fast = FakeSession(clock, [20], log), FakeSession(clock, [5], log)
    latencies = measure_latency([slow, fast], 1, warmup=1, max_repeats=4)
    assert log == [slow, fast] * 5
    assert [latency.median_ms for latency in latencies] == [pytest.approx(20), pytest.approx(5)]


def test_slow_networks_stop_at_the_time_limit_but_run_three_times(monkeypatch):
    session = FakeSession(Clock(monkeypatch), [4000])
    (latency,) = measure_latency([session], 1, warmup=1, max_seconds=5)
    assert latency.repeats == 3
    session = FakeSession(Clock(monkeypatch), [1000])
    assert measure_latency([session], 1, warmup=1, max_seconds=5)[0].repeats == 5


def test_a_graph_gets_images_of_its_own_kind(small, small_onnx, tmp_path):
    baked = export.graph.write_onnx(small, tmp_path / "baked.onnx", bake_preprocessing=True)
    sessions = [open_session(path, threads=1) for path in (small_onnx, baked)]
    latencies = measure_latency(sessions, 2, max_repeats=3)
    assert all(0 < latency.median_ms <= latency.p90_ms for latency in latencies)

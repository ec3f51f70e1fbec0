"""Timing is bounded by count and by time, on a clock that the test controls."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

import export.latency
from export.latency import measure_latency


class FakeSession:
    """Each run advances the fake clock by the next duration, then by the last one for ever."""

    def __init__(self, monkeypatch, milliseconds: list[float]) -> None:
        self.now, self.milliseconds, self.shapes = 0.0, milliseconds, []
        monkeypatch.setattr(export.latency.time, "perf_counter", lambda: self.now)

    def get_inputs(self):
        return [SimpleNamespace(name="images")]

    def run(self, _, inputs):
        duration = self.milliseconds.pop(0) if len(self.milliseconds) > 1 else self.milliseconds[0]
        self.now += duration / 1000
        self.shapes.append(inputs["images"].shape)


def test_warm_up_runs_are_not_timed(monkeypatch):
    session = FakeSession(monkeypatch, [900, 900, 10, 20, 30, 40, 50])
    latency = measure_latency(session, (64, 32), 4, warmup=2, max_repeats=5)
    assert (latency.batch, latency.repeats) == (4, 5)
    assert latency.median_ms == pytest.approx(30)
    assert latency.p90_ms == pytest.approx(46)
    assert set(session.shapes) == {(4, 3, 64, 32)}


def test_slow_networks_stop_at_the_time_limit_but_run_three_times(monkeypatch):
    session = FakeSession(monkeypatch, [300])
    assert measure_latency(session, (8, 8), 1, max_seconds=2).repeats == 7
    session = FakeSession(monkeypatch, [9000])
    assert measure_latency(session, (8, 8), 1, max_seconds=2).repeats == 3

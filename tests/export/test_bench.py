"""Ways are timed turn about."""

from __future__ import annotations

import numpy as np
import pytest

import export.bench
from export.bench import Way, random_feed, time_ways
from export.session import open_session


class Clock:
    """Time passes only by resting and by runs, each as long as its way's next duration."""

    def __init__(self, monkeypatch) -> None:
        self.now, self.ran = 0.0, []
        monkeypatch.setattr(export.bench.time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(export.bench.time, "sleep", self.rest)

    def rest(self, seconds: float) -> None:
        self.now += seconds

    def way(self, name: str, *milliseconds: float, batch: int = 1) -> Way:
        durations = list(milliseconds)

        def run() -> None:
            self.ran.append(name)
            self.now += (durations.pop(0) if len(durations) > 1 else durations[0]) / 1000

        return Way(name, "cpu", 2, batch, run)


def test_ways_take_turns_and_only_their_own_time_counts(monkeypatch):
    clock = Clock(monkeypatch)
    ways = [clock.way("a", 900, 10, 20, 30, 40, batch=4), clock.way("b", 900, 5)]
    a, b = time_ways(ways, warmup=1, max_rounds=4)
    assert clock.ran == ["a", "b"] * 5
    assert (a.name, a.device, a.threads, a.batch, a.rounds) == ("a", "cpu", 2, 4, 4)
    assert a.p50_ms == pytest.approx(25)
    assert a.p90_ms == pytest.approx(37)
    assert a.p99_ms == pytest.approx(39.7)
    assert a.crops_per_second == pytest.approx(160)
    assert (b.p50_ms, b.crops_per_second) == (pytest.approx(5), pytest.approx(200))


def test_slow_ways_stop_at_the_time_limit_but_run_three_rounds(monkeypatch):
    clock = Clock(monkeypatch)
    assert time_ways([clock.way("a", 300)], max_seconds=2, rest_s=0)[0].rounds == 7
    assert time_ways([clock.way("a", 9000)], max_seconds=2)[0].rounds == 3


def test_feeds_are_what_the_graph_takes(mobilenet):
    _, path = mobilenet
    feed = random_feed(open_session(path), 3)
    assert {name: (value.shape, value.dtype) for name, value in feed.items()} == {
        "images": ((3, 3, 64, 32), np.float32)
    }

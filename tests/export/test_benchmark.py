"""What is said of each way to run a network."""

from __future__ import annotations

import pytest

import export.benchmark
from export.benchmark import BenchmarkCase, run_benchmark


def test_percentiles_and_crops_per_second(monkeypatch):
    times = [[10.0, 20.0, 30.0, 40.0], [5.0, 5.0, 5.0, 5.0]]
    monkeypatch.setattr(export.benchmark, "time_interleaved", lambda runs, **_: times)
    ways = [
        BenchmarkCase("a", "cpu", 2, 4, lambda: None),
        BenchmarkCase("b", "cuda", 1, 1, lambda: None),
    ]
    a, b = run_benchmark(ways)
    assert (a.name, a.device, a.threads, a.batch, a.runs) == ("a", "cpu", 2, 4, 4)
    assert (a.p50_ms, a.p90_ms, a.p99_ms) == pytest.approx((25, 37, 39.7))
    assert a.crops_per_second == pytest.approx(160)
    assert (b.device, b.p99_ms, b.crops_per_second) == ("cuda", 5, pytest.approx(200))


def test_all_ways_are_run_as_often_as_asked():
    ran: list[str] = []
    ways = [BenchmarkCase(n, "cpu", 1, 1, lambda n=n: ran.append(n)) for n in "ab"]
    assert [timing.runs for timing in run_benchmark(ways, max_runs=4)] == [4, 4]
    assert (
        ran.count("a") == ran.count("b") == 2 * 5
    )  # with the untimed run of each burst, and the turn that does not count

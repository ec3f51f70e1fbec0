"""Percentiles, throughput and number of runs of each benchmark case."""

from __future__ import annotations

import pytest

import export.benchmark
from export.benchmark import BenchmarkCase, run_benchmark


def test_percentiles_and_crops_per_second(monkeypatch):
    times = [[10.0, 20.0, 30.0, 40.0], [5.0, 5.0, 5.0, 5.0]]
    monkeypatch.setattr(export.benchmark, "time_interleaved", lambda runs, **_: times)
    cases = [
        BenchmarkCase("a", "cpu", 2, 4, lambda: None),
        BenchmarkCase("b", "cuda", 1, 1, lambda: None),
    ]
    a, b = run_benchmark(cases)
    assert (a.name, a.device, a.threads, a.batch, a.runs) == ("a", "cpu", 2, 4, 4)
    assert (a.p50_ms, a.p90_ms, a.p99_ms) == pytest.approx((25, 37, 39.7))
    assert a.crops_per_second == pytest.approx(160)
    assert (b.device, b.p99_ms, b.crops_per_second) == ("cuda", 5, pytest.approx(200))


def test_every_case_runs_the_requested_number_of_times():
    calls: list[str] = []
    cases = [BenchmarkCase(n, "cpu", 1, 1, lambda n=n: calls.append(n)) for n in "ab"]
    assert [timing.runs for timing in run_benchmark(cases, max_runs=4)] == [4, 4]
    # Each round adds an untimed run to its burst, and the first round is not counted.
    assert calls.count("a") == calls.count("b") == 2 * 5

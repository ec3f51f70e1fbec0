"""The moments of the kills: two hundred, spread evenly over every stage."""

from __future__ import annotations

from benchmarks.faults import kills
from benchmarks.faults.workloads import WORKLOADS


def test_two_hundred_kills_are_planned_evenly() -> None:
    assert sum(kills.ROUNDS[w.name] * len(w.stages) for w in WORKLOADS) >= 200
    for workload in WORKLOADS:
        rounds, stages = kills.ROUNDS[workload.name], len(workload.stages)
        counts = {"calls": [1000.0] * stages, "seconds": [1.0] * stages}
        for stage in range(stages):
            moments = []
            for number in range(rounds):
                fault, text = kills.draw_moment(workload, stage, number, counts)
                (place, value) = fault.kill_at or fault.kill_after or (None, 0)
                assert place == stage
                moments.append(value / 1000 if text.startswith("call") else value)
            parts = {int(moment / 0.9 * rounds * 0.999) for moment in moments}
            assert parts == {*range(rounds)}, (workload.name, stage, moments)

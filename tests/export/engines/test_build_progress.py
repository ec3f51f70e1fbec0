"""How far a build is, from nested phases."""

from __future__ import annotations

import pytest

from export.engines.build_progress import BuildPhases, progress_monitor


def test_a_nested_phase_fills_one_step_of_its_parent():
    phases = BuildPhases()
    assert phases.share() == 0
    phases.start("build", None, 4)
    phases.step("build", 0)
    assert phases.share() == 0.25
    phases.start("optimise", "build", 2)
    phases.start("time", "optimise", 10)
    phases.step("time", 4)
    assert phases.share() == pytest.approx(0.25 + 0.25 * (0.5 * 0.5))
    phases.finish("time")
    phases.step("optimise", 1)
    assert phases.share() == 0.5
    phases.finish("optimise")
    phases.step("build", 3)
    assert phases.share() == 1
    phases.finish("build")
    assert phases.share() == 0


def test_a_phase_that_was_done_before_starts_anew():
    phases = BuildPhases()
    phases.start("time", None, 2)
    phases.step("time", 1)
    phases.finish("time")
    phases.start("time", None, 2)
    assert phases.share() == 0


def test_the_monitor_passes_the_share_and_lets_the_build_go_on(fake_tensorrt):
    shown: list[float] = []
    monitor = progress_monitor(fake_tensorrt, shown.append)
    monitor.phase_start("build", None, 2)
    assert monitor.step_complete("build", 0)
    assert monitor.step_complete("build", 1)
    monitor.phase_finish("build")
    assert shown == [0, 0.5, 1, 0]
    assert not monitor.stopped


@pytest.mark.parametrize("at", ["phase_start", "step_complete", "phase_finish"])
def test_ctrl_c_in_any_call_stops_at_the_next_step(fake_tensorrt, at):
    def show(share: float) -> None:
        if at in running:
            raise KeyboardInterrupt

    running: list[str] = []
    monitor = progress_monitor(fake_tensorrt, show)
    arguments = {"phase_start": ("b", None, 2), "step_complete": ("b", 0), "phase_finish": ("b",)}
    monitor.phase_start("a", None, 2)
    running.append(at)
    getattr(monitor, at)(*arguments[at])
    running.clear()
    assert monitor.stopped
    assert monitor.step_complete("a", 0) is False

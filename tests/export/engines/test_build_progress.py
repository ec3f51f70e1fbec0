"""The progress of a build is computed from nested phases; Ctrl-C cancels it."""

from __future__ import annotations

import pytest

from export.engines.build_progress import BuildPhases, progress_monitor


def test_nested_phase_fills_one_step_of_its_parent():
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


def test_repeated_phase_starts_from_zero():
    phases = BuildPhases()
    phases.start("time", None, 2)
    phases.step("time", 1)
    phases.finish("time")
    phases.start("time", None, 2)
    assert phases.share() == 0


def test_monitor_reports_the_share_and_continues_the_build(fake_tensorrt):
    shown: list[float] = []
    monitor = progress_monitor(fake_tensorrt, shown.append)
    monitor.phase_start("build", None, 2)
    assert monitor.step_complete("build", 0)
    assert monitor.step_complete("build", 1)
    monitor.phase_finish("build")
    assert shown == [0, 0.5, 1, 0]
    assert not monitor.stopped


@pytest.mark.parametrize("callback", ["phase_start", "step_complete", "phase_finish"])
def test_ctrl_c_in_any_callback_stops_the_build_at_the_next_step(fake_tensorrt, callback):
    def show(share: float) -> None:
        if callback in interrupting:
            raise KeyboardInterrupt

    interrupting: list[str] = []
    monitor = progress_monitor(fake_tensorrt, show)
    arguments = {"phase_start": ("b", None, 2), "step_complete": ("b", 0), "phase_finish": ("b",)}
    monitor.phase_start("a", None, 2)
    interrupting.append(callback)
    getattr(monitor, callback)(*arguments[callback])
    interrupting.clear()
    assert monitor.stopped
    assert monitor.step_complete("a", 0) is False

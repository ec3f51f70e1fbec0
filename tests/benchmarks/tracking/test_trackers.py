"""The trackers themselves, in an environment of their own, which pip fills from the registry."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from benchmarks.environments import ROOT, shared_environment
from benchmarks.tracking.__main__ import PACKAGES, measure
from benchmarks.tracking.report import ARMS, TRACKERS

pytestmark = pytest.mark.slow


def test_the_adapters_work_with_the_real_packages():
    """Run the tests of the module where the trackers are installed; none is skipped."""
    python = shared_environment("trackers", PACKAGES)
    tests = "tests/pivl_distill/runtime/test_trackers.py"
    command = [python, "-m", "pytest", "-p", "no:cacheprovider", tests]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "SKIPPED" not in done.stdout


def test_every_tracker_is_scored_on_every_video(deployed_once: Path):
    measured = measure(deployed_once, videos=2, frames=12)
    found = {(row.tracker, row.arm, row.sequence) for row in measured.rows}
    videos = ("seed-1000", "seed-1001")
    assert found == {(t, arm, video) for t in TRACKERS for arm in ARMS for video in videos}
    assert all(0 <= row.HOTA <= 1 and 0 <= row.IDF1 <= 1 for row in measured.rows)
    assert max(row.DetA for row in measured.rows) > 0.3

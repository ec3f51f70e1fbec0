"""Ctrl-C and SIGTERM to real processes: exit codes, messages and exact resume.

`benchmarks.faults` sends SIGKILL at many moments.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from command_line import QUICK, run, succeed
from pivl_distill.training.trainer import Stage2Trainer
from stopped_runs import EPOCHS, assert_same_student, assert_same_teach

pytestmark = pytest.mark.slow


def test_ctrl_c_stops_between_steps_with_130(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step, steps = Stage2Trainer.step, iter(range(1, 8))

    def interrupted_step(self: Stage2Trainer, *args: Any) -> Any:
        if next(steps) == 7:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Stage2Trainer, "step", interrupted_step)
        result = run("student", *QUICK, *EPOCHS)
    assert result.exit_code == 130
    assert "pivl-distill student --resume runs/student-1" in " ".join(result.output.split())
    assert "Continuing after step 7 of 15." in succeed("student", "--resume")
    assert_same_student(Path("runs/student-1"), Path("unstopped"))


def start(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "pivl_distill", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def wait_until(process: subprocess.Popen[str], condition: Callable[[], bool]) -> None:
    while not condition():
        try:
            process.wait(0.005)
        except subprocess.TimeoutExpired:
            continue
        assert process.stderr is not None
        raise AssertionError(f"the process ended first: {process.stderr.read()}")


def test_sigterm_stops_between_steps_with_143(desk: Path) -> None:
    epochs = ("--set", "tuning.identity_epochs=20")
    process = start("teach", *QUICK, *epochs)
    lines = Path("runs/teach-2/metrics.jsonl")
    wait_until(process, lambda: lines.is_file() and len(lines.read_text().splitlines()) >= 2)
    process.terminate()
    stderr = " ".join(process.communicate()[1].split())
    assert process.returncode == 143, stderr
    hint = "runs/teach-2 is unfinished; resume it with `pivl-distill teach --resume runs/teach-2`"
    assert hint in stderr
    assert "Traceback" not in stderr
    assert "Continuing after step" in succeed("teach", "--resume")
    succeed("teach", *QUICK, *epochs, "-o", "in-one-go")
    assert_same_teach(Path("runs/teach-2"), Path("in-one-go"))


def test_ctrl_c_in_a_terminal_is_told_once_for_all_workers(tmp_path: Path) -> None:
    """A terminal sends it to the worker processes too."""
    command = [sys.executable, "-m", "pivl_distill", "synth", "--out", str(tmp_path / "people")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    wait_until(process, lambda: any(tmp_path.rglob("*.jpg")))
    os.killpg(process.pid, signal.SIGINT)
    stderr = process.communicate(timeout=60)[1]
    assert (process.returncode, stderr) == (130, "Stopped; finished work is kept.\n")
    assert list(tmp_path.iterdir()) == []

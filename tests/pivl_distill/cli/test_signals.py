"""Ctrl-C, SIGTERM and SIGKILL to real processes: exit codes, messages and exact resume."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from command_line import QUICK, run, succeed
from kill_at_call import CALLS, run_stages
from pivl_distill.bank import PromptBank
from pivl_distill.config import StudentConfig, TeachConfig, load_config
from pivl_distill.data.store import load_training_crops
from pivl_distill.retrieval.evaluation import evaluate_model
from pivl_distill.runs.run import Run
from pivl_distill.storage.cache_dir import cache_dir
from pivl_distill.training.stage2 import train
from pivl_distill.training.trainer import Stage2Trainer
from stopped_runs import EPOCHS, assert_same_student, assert_same_teach
from students.distill import train_student
from students.student import save_student
from teachers.image_features import encode_crops
from teachers.stage1_losses import part_loss
from teachers.teach import make_bank, teach
from teachers.teacher import save_teacher
from teachers.tuning import tune_prompts

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


TEACH = (
    teach,
    load_training_crops,
    encode_crops,
    tune_prompts,
    part_loss,
    make_bank,
    PromptBank.save,
    train,
    save_teacher,
    evaluate_model,
    Run.finish,
)
"""Functions whose first call starts a stage of the command: tuning, writing the bank, …"""

STUDENT = (train_student, load_training_crops, train, save_student, evaluate_model, Run.finish)


@pytest.fixture(scope="module")
def forks() -> multiprocessing.context.ForkServerContext:
    """A server that forks processes in which everything is imported already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["teachers.teach", "students.distill"])
    first = context.Process(target=int)  # starts the server, which does the imports
    first.start()
    first.join()
    return context


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize(("command", "rounds"), [("teach", 1), ("student", 2)])
def test_resume_after_kills_in_every_stage_is_bit_identical(
    desk: Path, forks: multiprocessing.context.ForkServerContext, command: str, rounds: int
) -> None:
    """Send SIGKILL at random calls, 23 times in all: reading, encoding, tuning, writing, …"""
    if command == "teach":
        epochs = {"tuning.identity_epochs": 3, "tuning.part_epochs": 3, "stage2.epochs": 3}
        config = load_config(TeachConfig, "teach", "quick", epochs)
        stages, arguments, assert_same = TEACH, (config,), assert_same_teach
    else:
        config = load_config(StudentConfig, "student", "quick", {"stage2.epochs": 6})
        bank = Path("runs/teach-1/prompt_bank.safetensors")
        stages, arguments, assert_same = STUDENT, (config, bank), assert_same_student

    def exit_code(folder: Path, kill_at: tuple[int, int] | None = None) -> int | None:
        """Return the exit code of a process that starts or resumes the run in a folder."""
        for entry in cache_dir().glob("[cf]*/[!.]*"):  # crops and features are computed again
            shutil.rmtree(entry)
        resume = (folder / "config.yaml").is_file()
        out_and_resume = (None, folder) if resume else (folder, None)
        args = ((*arguments, *out_and_resume), stages, kill_at)
        process = forks.Process(target=run_stages, args=args)
        process.start()
        process.join()
        return process.exitcode

    uninterrupted, rng = Path("uninterrupted"), random.Random(0)
    assert exit_code(uninterrupted) == 0
    calls = json.loads(CALLS.read_text())
    for killed in map("killed-{}".format, range(rounds)):
        for stage, number in enumerate(calls):
            # Only in the first nine tenths: the number of calls varies a little between runs.
            kill_at = (stage, rng.randint(1, max(1, number * 9 // 10)))
            assert exit_code(Path(killed), kill_at) == -signal.SIGKILL, stages[stage]
        if not (Path(killed) / "run.json").is_file():
            assert exit_code(Path(killed)) == 0
        assert_same(Path(killed), uninterrupted)

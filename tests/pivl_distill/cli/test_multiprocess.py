"""Commands in several processes, started by torchrun, compared with a single process."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

import stopped_runs
from command_line import QUICK
from pivl_distill.bank import PromptBank
from pivl_distill.cli import main
from pivl_distill.data.synthetic.cache import cached_dataset

pytestmark = pytest.mark.slow

SLOWLY = ("student", *QUICK, "--set", "stage2.learning_rate=1e-4", "--bank", "none")
"""A small learning rate: Adam turns rounding differences into full steps."""


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder, with the data set in the cache."""
    monkeypatch.chdir(tmp_path)
    cached_dataset("tiny")
    return tmp_path


def torchrun(*arguments: str) -> str:
    """Return the output of a command in two processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*command, "-m", "pivl_distill", *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def alone(*arguments: str) -> str:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    return result.output


def metrics(path: Path) -> list[dict]:
    """Return a run's metrics without their stage."""
    return [{k: v for k, v in ln.items() if k != "stage"} for ln in stopped_runs.read_metrics(path)]


def test_teach_and_evaluate(desk: Path) -> None:
    output = torchrun("teach", *QUICK, "-o", "together")
    assert output.count("Taught in together") == output.count("Tuning prompts: 15 steps") == 1
    alone("teach", *QUICK, "-o", "alone")
    assert sorted(p.name for p in Path("together").iterdir()) == sorted(
        p.name for p in Path("alone").iterdir()
    )
    for line, expected in zip(metrics(Path("together")), metrics(Path("alone")), strict=True):
        assert line == pytest.approx(expected, rel=1e-3)
    banks = [
        PromptBank.load(Path(run) / "prompt_bank.safetensors") for run in ("together", "alone")
    ]
    np.testing.assert_allclose(banks[0].part, banks[1].part, atol=1e-3)
    metadata = [json.loads((Path(run) / "run.json").read_text()) for run in ("together", "alone")]
    assert metadata[0]["retrieval"]["mAP"] == pytest.approx(
        metadata[1]["retrieval"]["mAP"], abs=0.05
    )


def test_student_in_the_next_free_folder(desk: Path) -> None:
    torchrun(*SLOWLY)
    alone(*SLOWLY)
    first, second = Path("runs/student-1"), Path("runs/student-2")
    assert (first / "run.json").is_file()
    assert not (first / "state").exists()
    for line, expected in zip(metrics(first), metrics(second), strict=True):
        assert line == pytest.approx(expected, rel=1e-3)
    assert (
        load_file(first / "student.safetensors").keys()
        == load_file(second / "student.safetensors").keys()
    )


def test_evaluate_and_parse(desk: Path, launch: Callable) -> None:
    alone("student", *QUICK, "--bank", "none", "-o", "student")
    first, second = launch(2, "-m", "pivl_distill", "evaluate", "student")
    assert first.code == second.code == 0
    assert second.output == ""
    figures = [line.split() for line in alone("evaluate", "student").splitlines() if "%" in line]
    assert figures == [line.split() for line in first.output.splitlines() if "%" in line]

    first, second = launch(2, "-m", "pivl_distill", "parse", "synthetic:tiny", "-o", "maps")
    assert first.code == second.code == 0
    assert second.output == ""
    assert "48 written, 0 kept" in first.output
    alone("parse", "synthetic:tiny", "-o", "expected")
    maps = sorted(path.relative_to("expected") for path in Path("expected").rglob("*.png"))
    assert len(maps) == 49  # and the sheet
    for name in maps:
        with Image.open("maps" / name) as found, Image.open("expected" / name) as expected:
            assert np.array_equal(found, expected), name
    assert Path("maps/parsing.json").read_text() == Path("expected/parsing.json").read_text()


TWO_EPOCHS = (*SLOWLY, "--set", "stage2.epochs=2")
"""Ten steps, with synchronised batch norm."""


def assert_as_in_one_go(*runs: str) -> None:
    """Compare metrics and weights with those of an uninterrupted run of one process.

    The weights may differ by a share of the second epoch's change; `test_process_group.py`
    compares in double precision, to 1e-9.
    """
    alone(*TWO_EPOCHS, "-o", "unstopped")
    alone(*SLOWLY, "--set", "stage2.epochs=1", "-o", "one epoch")
    expected = weights("unstopped")
    moved = (weights("one epoch") - expected).norm()
    for run in runs:
        for line, other in zip(metrics(Path(run)), metrics(Path("unstopped")), strict=True):
            assert line == pytest.approx(other, rel=1e-3), run
        assert (weights(run) - expected).norm() < 0.2 * moved, run


def weights(run: str) -> Tensor:
    """Return all weights as one vector, without batch-norm statistics."""
    tensors = load_file(Path(run) / "student.safetensors")
    return torch.cat([t.flatten() for name, t in tensors.items() if "running" not in name])


def test_student_of_two_processes_resumes_with_one_and_four(desk: Path, launch: Callable) -> None:
    ended = launch(2, stopped_runs.__file__, *TWO_EPOCHS, "-o", "one")
    assert [process.code for process in ended] == [9, 9], ended[0].output
    shutil.copytree("one", "four")
    assert "Continuing after step 5 of 10." in alone("student", "--resume", "one")
    ended = launch(4, "-m", "pivl_distill", "student", "--resume", "four")
    assert [process.code for process in ended] == [0] * 4, ended[0].output
    assert "machine.processes was 2, now 4" in ended[0].output
    assert_as_in_one_go("one", "four")


def test_student_of_one_process_resumes_with_two(desk: Path) -> None:
    stopped_runs.kill_command(*TWO_EPOCHS, "-o", "two")
    assert "Continuing after step 5 of 10." in torchrun("student", "--resume", "two")
    assert_as_in_one_go("two")


def test_all_processes_stop_at_the_loss_that_is_not_finite(desk: Path, launch: Callable) -> None:
    ended = launch(
        2, "-m", "pivl_distill", *SLOWLY, "--set", "stage2.learning_rate=1e30", "-o", "run"
    )
    assert [process.code for process in ended] == [2, 2], ended
    output = "".join(process.output for process in ended)
    assert output.count("diverged in epoch 1 of") == 1
    assert "--resume run --set stage2.learning_rate=VALUE" in output
    resumed = alone("student", "--resume", "run", "--set", "stage2.learning_rate=1e-4")
    assert "continues with changed settings: stage2.learning_rate 1e+30 → 0.0001." in resumed


def test_unexpected_error_of_one_process_is_told_once(
    launch: Callable[..., list], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = """
import os
from pivl_distill.cli import main
from pivl_distill.cli.commands import training
from pivl_distill.distributed import process_group

def work(**_options):
    if process_group.rank() == 1:
        raise TypeError("a bug")
    process_group.barrier()

training.teach.callback = work
main(["teach"])
"""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    first, second = launch(2, "-c", script)
    (report,) = tmp_path.iterdir()
    assert (first.code, first.output) == (2, "")
    assert second.code == 70
    assert second.output.splitlines() == [
        "Error: unexpected TypeError: a bug",
        f"Please report this as a bug and attach {report}.",
    ]

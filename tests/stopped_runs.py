"""Interrupt runs, and compare resumed runs with uninterrupted ones."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from command_line import run
from pivl_distill.bank import PromptBank
from pivl_distill.cli import main
from pivl_distill.training.trainer import Stage2Trainer

EPOCHS = ("--set", "stage2.epochs=3")
"""Epochs of the student that the tests interrupt; each has five steps."""


class Killed(BaseException):
    """Stands for the end of the process; no handler of the code under test catches it."""


@contextmanager
def call_before_step(number: int, function: Callable[[], None]) -> Iterator[None]:
    """Inside the block, call `function` before this step of stage 2, counted from 1."""
    step, steps = Stage2Trainer.step, iter(range(1, number + 1))

    def step_with_call(self: Stage2Trainer, *args: Any) -> Any:
        if next(steps) == number:
            function()
        return step(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Stage2Trainer, "step", step_with_call)
        yield


def kill_command(*arguments: str | Path, step: int = 7) -> None:
    """Run a command and kill it before this step of stage 2."""
    with call_before_step(step, kill_process), pytest.raises(Killed):
        run(*arguments)


def kill_process() -> None:
    raise Killed


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the lines of metrics.jsonl without the rate, which depends on the clock."""
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in ln.items() if key != "crops_per_s"} for ln in lines]


def assert_same_run(
    network: nn.Module, path: Path, uninterrupted: tuple[dict[str, Tensor], list[dict[str, Any]]]
) -> None:
    """Compare a trained network and its metrics with those of an uninterrupted run."""
    weights, lines = uninterrupted
    for name, value in network.state_dict().items():
        assert torch.equal(value, weights[name]), name
    assert read_metrics(path) == lines


def assert_same_student(path: Path, other: Path) -> None:
    first, second = (folder / "student.safetensors" for folder in (path, other))
    assert first.read_bytes() == second.read_bytes()
    assert read_metrics(path) == read_metrics(other)


def assert_same_teach(path: Path, other: Path) -> None:
    """Compare teach runs; banks differ in their date and therefore in their bytes."""
    first, second = (folder / "teacher.safetensors" for folder in (path, other))
    assert first.read_bytes() == second.read_bytes()
    banks = [PromptBank.load(folder / "prompt_bank.safetensors") for folder in (path, other)]
    for name in ("identity", "part", "label", "present"):
        assert torch.equal(*(getattr(bank, name) for bank in banks)), name
    metadata = [
        {key: value for key, value in bank.provenance.items() if key != "date"} for bank in banks
    ]
    assert metadata[0] == metadata[1]
    assert banks[0].image_digests == banks[1].image_digests
    assert read_metrics(path) == read_metrics(other)


if __name__ == "__main__":  # one of several processes that exit before step 7
    with call_before_step(7, lambda: os._exit(9)):
        main(sys.argv[1:])

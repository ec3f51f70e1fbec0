"""Run commands in this process, as a user types them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pivl_distill.cli import main

QUICK = ("--config", "quick")
"""The shortest training configuration, on the tiny tier."""


def run(*arguments: str | Path) -> Result:
    """Run `pivl-distill` with these arguments."""
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def end(code: int, *arguments: str | Path) -> str:
    """Return the output of a command that must exit with this code; whitespace is collapsed."""
    result = run(*arguments)
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return " ".join(result.output.split())


def succeed(*arguments: str | Path) -> str:
    """`end` with exit code 0."""
    return end(0, *arguments)


def refuse(*arguments: str | Path) -> str:
    """`end` with exit code 2, of bad input."""
    return end(2, *arguments)


def work_in_copy(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a copy of `folder` in `tmp_path` the working folder, and return it."""
    desk = tmp_path / "desk"
    shutil.copytree(folder, desk)
    monkeypatch.chdir(desk)
    return desk

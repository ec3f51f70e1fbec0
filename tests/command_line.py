"""The commands as a user types them, in this process."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner, Result

from pivl_distill.cli import main

QUICK = ("--config", "quick")
"""The shortest training there is, of the tiny tier."""


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def end(code: int, *arguments: str | Path) -> str:
    """What a command says that has to end with this exit code; white space is one blank."""
    result = run(*arguments)
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return " ".join(result.output.split())


def succeed(*arguments: str | Path) -> str:
    return end(0, *arguments)


def refuse(*arguments: str | Path) -> str:
    """As bad input ends."""
    return end(2, *arguments)

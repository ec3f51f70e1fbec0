"""Every command and every --help can be printed in every encoding."""

from __future__ import annotations

import io
import logging
import os
import subprocess
import sys

import pytest
from click.testing import CliRunner

from pivl_distill import console
from pivl_distill.cli import main
from pivl_distill.cli.commands import data
from pivl_distill.cli.encoding import APPROXIMATIONS, approximate, make_output_encodable
from pivl_distill.errors import PivlError

ENCODINGS = ("ascii", "cp1252", "latin-1", "utf-8", "cp932")
UGLY = "caf\udce9 → × … 人 é"
COMMANDS = [[], *([name] for name in main.commands)]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("command", COMMANDS, ids=lambda names: "-".join(names) or "main")
def test_every_help_is_printed(command: list[str], encoding: str) -> None:
    result = CliRunner(charset=encoding).invoke(main, [*command, "--help"])
    assert (result.exit_code, result.exception) == (0, None)
    assert "Usage:" in result.stdout


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_setting_is_printed(encoding: str) -> None:
    for command in ("teach", "student"):
        result = CliRunner(charset=encoding).invoke(main, [command, "--help-settings", "all"])
        assert (result.exit_code, result.exception) == (0, None)
        assert "data.spec" in result.stdout


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_results_errors_and_messages_are_printed(
    monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    def tell(**_options: object) -> None:
        console.summary(UGLY, {UGLY: UGLY})
        console.table(UGLY, [UGLY, "mAP"], [[UGLY, "×"]])
        list(console.track(range(2), UGLY))
        logging.getLogger("pivl_distill").warning(UGLY)
        raise PivlError(UGLY)

    monkeypatch.setattr(data.synth, "callback", tell)
    result = CliRunner(charset=encoding).invoke(main, ["synth"])
    assert result.exit_code == 2
    for printed in (result.stdout, result.stderr):
        assert "caf\\xe9" in printed
    if encoding == "ascii":
        assert "Error: caf\\xe9 -> x ... \\u4eba e" in result.stderr


def test_output_of_a_process_is_ascii() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pivl_distill", "--help"],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"CLIP -> prompt bank and teacher" in done.stdout


def test_approximations_are_ascii() -> None:
    for character in (
        *APPROXIMATIONS,
        "é",
        "ß",
        "人",
        "\udcff",
        "a",
        "\x00",
        "\U0001f600",
        "\ud800",
    ):
        assert approximate(character).isascii()
        assert approximate(character)


def test_other_streams_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    monkeypatch.setattr(sys, "stderr", None)
    make_output_encodable()

"""Log records: printed by the command line, and silent or redirected in other programs."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest

from command_line import run
from pivl_distill.cli.commands import data
from pivl_distill.log_handler import LOGGERS, logs_on_stderr

LIBRARY_CALL = """
import logging
from pathlib import Path
from pivl_distill import console
from pivl_distill.runs.contract import Contract

{setup}
list(console.track(range(3), "Reading"))
contract = Contract(Path({folder!r}))
contract.pin(machine={{"threads": 1}})
contract.pin(machine={{"threads": 2}})
"""


def call_library(folder: object, setup: str) -> subprocess.CompletedProcess[str]:
    """Run library code that shows progress and logs a warning, in a process of its own."""
    script = LIBRARY_CALL.format(folder=str(folder), setup=setup)
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )


def test_silenced_library_prints_nothing(tmp_path):
    silence = "logging.getLogger('pivl_distill').setLevel(logging.ERROR)"
    done = call_library(tmp_path, f"console.show_progress(False); {silence}")
    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.slow
def test_silenced_teach_prints_nothing(tmp_path):
    script = """
import logging
import pivl_distill
from pivl_distill import console

console.show_progress(False)
for package in ("pivl_distill", "teachers"):
    logging.getLogger(package).setLevel(logging.ERROR)
pivl_distill.teach(config="quick", out="taught")
"""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_application_can_redirect_records(tmp_path):
    log = tmp_path / "messages.log"
    setup = f"console.show_progress(False); logging.basicConfig(filename={str(log)!r})"
    done = call_library(tmp_path, setup)
    assert (done.stdout, done.stderr) == ("", "")
    assert "WARNING:pivl_distill.runs.contract:The result may differ" in log.read_text()


@pytest.mark.parametrize("package", ["pivl_distill", "teachers", "students", "export"])
def test_import_prints_nothing(package):
    command = [sys.executable, "-c", f"import {package}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("level", ["info", "warning"])
def test_messages_are_printed_literally_on_stderr(capsys, level):
    with logs_on_stderr():
        getattr(logging.getLogger("teachers.teach"), level)("pip install 'pivl-distill[trt]'")
        logging.getLogger("teachers.teach").debug("details")
    assert capsys.readouterr() == ("", "pip install 'pivl-distill[trt]'\n")


def test_loggers_are_restored(capsys):
    def state() -> list[tuple[object, ...]]:
        loggers = map(logging.getLogger, LOGGERS)
        return [(tuple(x.handlers), x.level, x.propagate) for x in loggers]

    before = state()
    with logs_on_stderr():
        assert state() != before
    assert state() == before
    logging.getLogger("export").warning("not printed")
    assert capsys.readouterr() == ("", "")


def test_configured_root_logger_does_not_print_twice(capsys, caplog):
    with logs_on_stderr():
        logging.getLogger("students.distill").warning("starts from random weights")
    assert capsys.readouterr().err == "starts from random weights\n"
    assert caplog.text == ""


def test_command_prints_records_on_stderr(monkeypatch):
    def log_and_return(*_arguments: object, **_options: object) -> None:
        logging.getLogger("pivl_distill.data.store").info("a message of the library")

    monkeypatch.setattr(data.synth, "callback", log_and_return)
    result = run("synth")
    assert result.exit_code == 0, result.output
    assert result.stderr == "a message of the library\n"
    assert result.stdout == ""

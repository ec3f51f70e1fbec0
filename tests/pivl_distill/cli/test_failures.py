"""Every exception ends in one sentence or two lines and an exit code, without a traceback."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import click
import pytest

from command_line import end, run
from pivl_distill.cli import failures
from pivl_distill.cli.commands import data
from pivl_distill.cli.failures import UNEXPECTED_EXIT_CODE, explain
from pivl_distill.errors import PivlError, VerificationError
from pivl_distill.runs.run import Run


@pytest.fixture
def synth_raises(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """`synth_raises(error)`: the command `synth` raises it; reports go to an empty folder."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def replace(error: BaseException) -> None:
        def fail(**_options: object) -> None:
            raise error

        monkeypatch.setattr(data.synth, "callback", fail)

    return replace


def test_unexpected_error_is_two_lines_with_the_report(synth_raises: Any, tmp_path: Path) -> None:
    synth_raises(RuntimeError("mat1 and mat2\nshapes: …"))
    result = run("synth", "--tier", "tiny")
    (report,) = tmp_path.iterdir()
    assert result.exit_code == UNEXPECTED_EXIT_CODE == 70
    assert result.stdout == ""
    assert result.stderr.splitlines() == [
        "Error: unexpected RuntimeError: mat1 and mat2",
        f"Please report this as a bug and attach {report}.",
    ]
    assert "Traceback (most recent call last)" in report.read_text()
    assert "shapes: …" in report.read_text()


def test_report_of_a_run_is_in_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def fail(**_options: object) -> None:
        Run.create("student", "student: {}\n")
        raise TypeError("a bug")

    monkeypatch.setattr(data.synth, "callback", fail)
    assert "attach runs/student-1/crash.log." in end(70, "synth")
    assert "student: {}" in Path("runs/student-1/crash.log").read_text()


def test_without_a_place_for_the_report_the_traceback_is_printed(
    synth_raises: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    synth_raises(ZeroDivisionError("a bug"))
    monkeypatch.setattr(failures, "write_crash_report", lambda *_: None)
    result = run("synth")
    assert result.exit_code == 70
    assert "No report can be written" in result.stderr
    assert "Traceback (most recent call last)" in result.stderr


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (PivlError("wrong input"), 2, "Error: wrong input"),
        (VerificationError("differs"), 3, "Error: differs"),
        (click.UsageError("no such option"), 2, "Error: no such option"),
        (
            OSError(errno.ENOSPC, "No space left on device", "runs/a/b.bin"),
            2,
            "'runs/a/b.bin': No space left on device. Free disk space, or use another folder.",
        ),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), 2, "a file: Disk quota exceeded."),
        (
            FileNotFoundError(errno.ENOENT, "No such file or directory", b"caf\xe9.jpg"),
            2,
            "caf\\xe9.jpg': No such file or directory. It may have been moved or removed",
        ),
        (PermissionError(errno.EACCES, "Permission denied", "a"), 2, "Check its permissions"),
        (OSError(errno.ELOOP, "Too many levels of symbolic links", "a"), 2, "'a': Too many levels"),
        (MemoryError("Unable to allocate 93 GiB"), 2, "Out of memory (Unable to allocate 93 GiB)"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1"),
            2,
            "Out of memory (DefaultCPUAllocator",
        ),
        (ModuleNotFoundError("x", name="pyarrow.parquet"), 2, "This command needs pyarrow"),
        (ModuleNotFoundError("x", name="students.new"), 70, "unexpected ModuleNotFoundError"),
        (OSError("a library's own"), 70, "unexpected OSError"),
        (SystemExit(143), 143, ""),
        (KeyboardInterrupt(), 130, "Stopped; finished work is kept."),
        (click.exceptions.Exit(3), 3, ""),
    ],
    ids=str,
)
def test_errors_have_a_message_and_an_exit_code(
    synth_raises: Any, error: BaseException, code: int, sentence: str
) -> None:
    synth_raises(error)
    told = end(code, "synth")
    assert sentence in told
    assert bool(told) == bool(sentence)


def test_out_of_memory_of_a_gpu_is_known() -> None:
    torch = pytest.importorskip("torch")
    known = explain(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."))
    assert "Tried to allocate 2.00 GiB" in str(known)


def python(script: str, **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


@pytest.mark.skipif(os.name != "posix", reason="pipes and signals of POSIX")
def test_closed_pipe_ends_the_command_without_a_traceback() -> None:
    """As `pivl-distill … | head -1`, by click's and by rich's printing."""
    script = (
        "import sys; from pivl_distill.__main__ import main; sys.stdin.readline()\n"
        "sys.argv[1:] = ARGUMENTS; main()"
    )
    for arguments in (["--help"], ["student", "--help-settings"]):
        process = python(script.replace("ARGUMENTS", repr(arguments)), stdin=subprocess.PIPE)
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        process.stdin.write("\n")
        process.stdin.flush()
        told = process.stderr.read()
        assert process.wait(60) == 1
        assert told == ""


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_ctrl_c_before_the_command_begins_has_no_traceback() -> None:
    script = (
        "import os, signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "class Slow:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'pivl_distill.cli': os.kill(os.getpid(), signal.SIGINT)\n"
        "from pivl_distill.__main__ import main\n"
        "sys.meta_path.insert(0, Slow()); main()"
    )
    process = python(script)
    assert process.communicate(timeout=60) == ("", "")
    assert process.returncode == 128 + signal.SIGINT

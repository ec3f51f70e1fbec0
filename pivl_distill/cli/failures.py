"""What the command line does with an exception: one sentence or two lines, and an exit code."""

from __future__ import annotations

import sys
import traceback
from concurrent.futures import BrokenExecutor
from pathlib import Path

import click

from pivl_distill.crash_report import write_crash_report
from pivl_distill.distributed import process_group
from pivl_distill.errors import PivlError, explain_os_error, printable

UNEXPECTED_EXIT_CODE = 70
"""Of an exception that nobody foresaw; EX_SOFTWARE of sysexits.h."""

_OWN_PACKAGES = ("pivl_distill", "teachers", "students", "export", "configs")
_MAX_SHOWN = 300
"""Characters of an unexpected exception's message; all of it is in the report."""


def report_failure(error: Exception) -> int:
    """Tell the user about `error`; return the exit code of the command.

    An error that the user can fix is one message; anything else is written to a crash report. Of
    several processes, only the first that fails prints.
    """
    known = explain(error)
    log = None if known else write_crash_report(error, process_group.rank())
    if process_group.register_failure(error):
        if known is None:
            _show_unexpected(error, log)
        elif isinstance(known, click.ClickException):
            known.show()
        else:
            _show(str(known))
    process_group.wait_for_failing_peers()
    return UNEXPECTED_EXIT_CODE if known is None else known.exit_code


def explain(error: Exception) -> PivlError | click.ClickException | None:
    """Return the error for the user; None for an exception that nobody foresaw."""
    if isinstance(error, PivlError | click.ClickException):
        return error
    if isinstance(error, ModuleNotFoundError):
        return _missing_package(error)
    if isinstance(error, OSError):
        return explain_os_error(error)
    return _out_of_memory(error)


def _missing_package(error: ModuleNotFoundError) -> PivlError | None:
    package = (error.name or "").partition(".")[0]
    if not package or package in _OWN_PACKAGES:
        return None
    return PivlError(
        f"This command needs {package}, which is not installed; `pip install pivl-distill`"
        " installs all dependencies. With the runtime's packages alone, `pivl-distill embed"
        " CROPS --export FOLDER -o features.npz` works."
    )


def _out_of_memory(error: Exception) -> PivlError | None:
    """The error for a machine or GPU without enough memory; torch has several exceptions for it."""
    message = _first_line(error)
    in_torch = isinstance(error, RuntimeError) and (
        type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in message
    )
    killed = isinstance(error, BrokenExecutor)  # a worker process, by the system
    if not (in_torch or killed or isinstance(error, MemoryError)):
        return None
    return PivlError(
        f"Out of memory ({message or 'no details'}). Stop other processes, or use less: smaller"
        " batches or images; `--dry-run` prints what a training run needs."
    )


def _show_unexpected(error: Exception, log: Path | None) -> None:
    _show(f"unexpected {type(error).__name__}: {_first_line(error)}")
    if log is None:
        click.echo("No report can be written; please report this as a bug:", err=True)
        traceback.print_exception(error, file=sys.stderr)
    else:
        click.echo(f"Please report this as a bug and attach {log}.", err=True)


def _show(message: str) -> None:
    click.secho("Error: ", fg="red", bold=True, err=True, nl=False)
    click.echo(printable(message), err=True)


def _first_line(error: Exception) -> str:
    line = str(error).strip().partition("\n")[0]
    return line if len(line) <= _MAX_SHOWN else f"{line[:_MAX_SHOWN]} …"

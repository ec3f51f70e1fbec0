"""Short runs, and the page about them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from command_line import QUICK, succeed
from pivl_distill.report.runs import ReportRun, find_runs
from report_page import ReadPage

RUNS = ("runs/teach-1", "runs/student-1", "runs/student-2", "runs/export-1", "runs/export-2")
"""A teacher, a student of labels, one of the bank, the export of the latter, and of the former."""


@pytest.fixture(scope="session")
def run_folders(workplace: Path, make_once: Callable[[str, Callable[[], None]], Path]) -> Path:
    """A folder with `RUNS`; tests copy it or only read it."""

    def make() -> None:
        shutil.copytree(workplace, ".", dirs_exist_ok=True)
        succeed("student", *QUICK, "--bank", "none", "--teacher", "none")
        shutil.move("unstopped", "runs/student-2")
        succeed("export", "runs/student-2", "--precision", "fp16,int8")
        succeed("export", "runs/student-1")

    return make_once("report runs", make)


@pytest.fixture(scope="session")
def report_file(run_folders: Path, make_once: Callable[[str, Callable[[], None]], Path]) -> Path:
    """The page about `RUNS`, written by the command."""

    def make() -> None:
        succeed("report", *(run_folders / run for run in RUNS))

    return make_once("report", make) / "report.html"


@pytest.fixture(scope="session")
def page(report_file: Path) -> ReadPage:
    """That page, parsed."""
    return ReadPage.open(report_file)


@pytest.fixture(scope="session")
def report_runs(run_folders: Path) -> dict[str, ReportRun]:
    """The runs of that page by name."""
    return {run.name: run for run in find_runs([run_folders / run for run in RUNS])}


@pytest.fixture
def desk(run_folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder of one's own with copies of these runs."""
    folder = tmp_path / "desk"
    shutil.copytree(run_folders, folder)
    monkeypatch.chdir(folder)
    return folder

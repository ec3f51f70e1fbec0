"""Crash reports hold everything, and are written somewhere whatever is broken."""

from __future__ import annotations

import errno
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import pivl_distill
from pivl_distill import crash_report
from pivl_distill.crash_report import report_to, write_crash_report


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The temporary folder of the system; no run is going on."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    report_to(None)
    yield folder
    report_to(None)


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "student-1"
    folder.mkdir()
    (folder / "config.yaml").write_text("student:\n  arch: resnet18\n")
    report_to(folder)
    return folder


def an_error() -> Exception:
    try:
        try:
            raise KeyError("cause")
        except KeyError as cause:
            raise TypeError("not a tensor") from cause
    except TypeError as error:
        return error


def test_report_of_a_run_is_complete(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["pivl-distill", "student", "--data", "market1501:/a b"])
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("SECRET_TOKEN", "swordfish")
    file = write_crash_report(an_error())
    assert file == run_folder / "crash.log"
    text = file.read_text()
    for part in (
        "command: pivl-distill student --data 'market1501:/a b'",
        f"folder: {Path.cwd()}",
        f"Python {sys.version_info.major}.{sys.version_info.minor}",
        "torch ",
        "OMP_NUM_THREADS=3",
        "arch: resnet18",
        "KeyError: 'cause'",
        "The above exception was the direct cause",
        "TypeError: not a tensor",
        "in an_error",
    ):
        assert part in text
    assert "swordfish" not in text


def test_reports_of_a_run_are_kept(run_folder: Path) -> None:
    write_crash_report(ValueError("first"))
    write_crash_report(ValueError("second"))
    write_crash_report(ValueError("of a peer"), rank=1)
    text = (run_folder / "crash.log").read_text()
    assert text.index("first") < text.index("second")
    assert "of a peer" in (run_folder / "crash-1.log").read_text()


@pytest.mark.parametrize("run", ["none", "removed"])
def test_without_a_run_folder_the_report_is_in_the_temporary_folder(
    temporary: Path, tmp_path: Path, run: str
) -> None:
    report_to(None if run == "none" else tmp_path / "removed")
    file = write_crash_report(an_error())
    assert file is not None
    assert file.parent == temporary
    assert file.name.startswith("pivl-distill-crash-")
    assert "TypeError: not a tensor" in file.read_text()


def test_without_any_place_there_is_no_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    assert write_crash_report(an_error()) is None


def test_names_that_are_not_utf8_and_a_removed_folder_do_no_harm(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def removed() -> Path:
        raise FileNotFoundError("No such file or directory")

    monkeypatch.setattr(Path, "cwd", removed)
    monkeypatch.setattr(sys, "argv", ["pivl-distill", "caf\udce9"])
    (run_folder / "config.yaml").write_bytes(b"\xff")
    file = write_crash_report(an_error())
    assert file is not None
    assert "caf\\udce9" in file.read_text(encoding="utf-8")


def test_version_is_that_of_this_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crash_report, "PACKAGES", ("no-such-package", "pivl-distill"))
    file = write_crash_report(an_error())
    assert file is not None
    assert f"packages: pivl-distill {pivl_distill.__version__}\n" in file.read_text()


def test_report_that_does_not_fit_leaves_no_part_of_it(
    run_folder: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(crash_report, "append_bytes", full)
    file = write_crash_report(an_error())
    assert file is not None
    assert file.parent == temporary
    assert "TypeError: not a tensor" in file.read_text()
    assert not (run_folder / "crash.log").exists()

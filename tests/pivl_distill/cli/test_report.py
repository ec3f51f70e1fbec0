"""`pivl-distill report` with wrong input; its pages are tested in `tests/pivl_distill/report`."""

from __future__ import annotations

from pathlib import Path

from command_line import refuse, run


def test_without_runs_the_message_says_what_to_run_first(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "run `pivl-distill teach`, `student` or `export` first" in refuse("report")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    output = refuse("report", tmp_path, "-o", tmp_path / "page.html")
    assert "contains no finished run" in output
    assert not (tmp_path / "page.html").exists()


def test_a_place_that_cannot_be_written_is_refused_first(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = run("report", "-o", tmp_path / "file" / "page.html")
    assert result.exit_code == 2
    assert "--out" in result.output

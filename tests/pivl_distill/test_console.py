"""Progress is plain lines in a log file or a bar on a terminal; results go to standard output."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from pivl_distill import console
from pivl_distill.console import format_bytes, summary, table, track, watch


def test_items_are_yielded_lazily(capsys):
    taken = []

    def items():
        for number in range(3):
            taken.append(number)
            yield number

    progress = track(items(), "Working")
    assert next(progress) == 0
    assert taken == [0]
    assert list(progress) == [1, 2]


def test_log_file_gets_final_line_on_stderr(capsys):
    assert list(track("abc", "Reading", unit="letters")) == ["a", "b", "c"]
    captured = capsys.readouterr()
    assert captured.out == ""
    assert re.fullmatch(r"Reading: 3 letters in \d+\.\d s\n", captured.err)


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test advances by `clock[0] += seconds`."""
    now = [100.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    return now


def test_log_file_gets_line_every_ten_seconds(clock, capsys):
    for _ in track(range(5), "Training", unit="epochs"):
        clock[0] += 6
    assert capsys.readouterr().err.splitlines() == [
        "Training: 2/5 epochs, 0.2/s, 18 s left",
        "Training: 4/5 epochs, 0.2/s, 6 s left",
        "Training: 5 epochs in 30.0 s",
    ]


def test_completed_share_never_decreases(clock, capsys):
    with watch("Building") as show:
        show(0)
        clock[0] += 10
        show(0)
        show(0.25)
        clock[0] += 10
        show(0.1)
        clock[0] += 5
        show(0.9)
    assert capsys.readouterr().err.splitlines() == [
        "Building: 25%, 30 s left",
        "Building: 25%, 60 s left",
        "Building: 25.0 s",
    ]


def test_unknown_total_shows_no_remaining_time(clock, capsys):
    for _ in track(iter(range(2)), "Reading", unit="crops"):
        clock[0] += 10
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "Reading: 1/? crops, 0.1/s"


def test_total_of_generator_can_be_given(clock, capsys):
    for _ in track(iter(range(2)), "Reading", total=2, unit="crops"):
        clock[0] += 10
    assert "1/2 crops, 0.1/s, 10 s left" in capsys.readouterr().err


def test_empty_iterable_prints_final_line(capsys):
    assert list(track([], "Reading", unit="crops")) == []
    assert "Reading: 0 crops in" in capsys.readouterr().err


@pytest.mark.parametrize("total", [None, 3])
def test_terminal_gets_progress_bar(monkeypatch, total):
    terminal = Console(file=io.StringIO(), force_terminal=True, width=100)
    monkeypatch.setattr(console, "err", terminal)
    items = (n for n in range(3)) if total is None else range(3)
    assert list(track(items, "Training", unit="epochs")) == [0, 1, 2]
    shown = terminal.file.getvalue()
    assert "Training" in shown
    assert "3/?" in shown if total is None else "3/3" in shown


def test_terminal_gets_bar_of_completed_share(monkeypatch):
    terminal = Console(file=io.StringIO(), force_terminal=True, width=100)
    monkeypatch.setattr(console, "err", terminal)
    with watch("Building") as show:
        show(0.75)
        show(0.5)
    shown = terminal.file.getvalue()
    assert "Building" in shown
    assert "75%" in shown


def test_results_go_to_stdout(capsys):
    summary("Student", {"mAP": 0.5, "weights": "a.safetensors"})
    table("Figures", ["arch", "mAP"], [["resnet18", 0.25], ["mobilenetv2_025", 0.5]])
    captured = capsys.readouterr()
    assert captured.err == ""
    for text in ("Student", "mAP", "0.5", "a.safetensors", "resnet18", "0.25", "mobilenetv2_025"):
        assert text in captured.out


def test_hidden_progress_prints_nothing(clock, capsys, monkeypatch):
    monkeypatch.setattr(console, "_progress_shown", True)
    console.show_progress(False)
    for _ in track(range(3), "Training"):
        clock[0] += 20
    with watch("Building") as report_share:
        clock[0] += 20
        report_share(0.5)
    assert capsys.readouterr() == ("", "")
    console.show_progress(True)
    assert list(track(range(2), "Reading", unit="crops")) == [0, 1]
    assert "Reading: 2 crops in" in capsys.readouterr().err


def test_short_work_shows_no_progress_if_asked(clock, capsys):
    quiet = track(range(4), "Checking", unit="files", quiet_s=2.0)
    assert list(quiet) == [0, 1, 2, 3]
    assert capsys.readouterr().err == ""


def test_long_work_shows_progress_after_the_quiet_seconds(clock, capsys):
    seen = []
    for number in track(range(6), "Checking", unit="files", quiet_s=2.0):
        seen.append(number)
        clock[0] += 1.5
    assert seen == [0, 1, 2, 3, 4, 5]
    assert capsys.readouterr().err == "Checking: 4 files in 6.0 s\n"


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 bytes"), (2048, "2 KiB"), (5 * 2**30, "5 GiB"), (2**50, "1.049e+06 GiB")],
)
def test_bytes_are_formatted_with_a_binary_unit(count, text):
    assert format_bytes(count) == text

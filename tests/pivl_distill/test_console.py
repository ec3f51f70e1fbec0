"""Progress and tables: plain lines in a log, a bar on a terminal, results on standard output."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from pivl_distill import console
from pivl_distill.console import note, summary, table, track, watch


def test_items_come_through_one_at_a_time(capsys):
    taken = []

    def items():
        for number in range(3):
            taken.append(number)
            yield number

    progress = track(items(), "Working")
    assert next(progress) == 0
    assert taken == [0]
    assert list(progress) == [1, 2]


def test_a_log_gets_one_last_line_on_standard_error(capsys):
    assert list(track("abc", "Reading", unit="letters")) == ["a", "b", "c"]
    captured = capsys.readouterr()
    assert captured.out == ""
    assert re.fullmatch(r"Reading: 3 letters in \d+\.\d s\n", captured.err)


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test moves; lines are due every ten seconds."""
    now = [100.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    return now


def test_a_log_gets_a_line_every_ten_seconds_with_rate_and_time_left(clock, capsys):
    for _ in track(range(5), "Training", unit="epochs"):
        clock[0] += 6
    assert capsys.readouterr().err.splitlines() == [
        "Training: 2/5 epochs, 0.2/s, 18 s left",
        "Training: 4/5 epochs, 0.2/s, 6 s left",
        "Training: 5 epochs in 30.0 s",
    ]


def test_a_share_that_is_reported_gets_lines_that_never_go_back(clock, capsys):
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


def test_without_a_total_no_time_left_is_claimed(clock, capsys):
    for _ in track(iter(range(2)), "Reading", unit="crops"):
        clock[0] += 10
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "Reading: 1/? crops, 0.1/s"


def test_a_generator_may_be_given_its_total(clock, capsys):
    for _ in track(iter(range(2)), "Reading", total=2, unit="crops"):
        clock[0] += 10
    assert "1/2 crops, 0.1/s, 10 s left" in capsys.readouterr().err


def test_nothing_to_do_is_said_too(capsys):
    assert list(track([], "Reading", unit="crops")) == []
    assert "Reading: 0 crops in" in capsys.readouterr().err


@pytest.mark.parametrize("total", [None, 3])
def test_a_terminal_gets_a_bar(monkeypatch, total):
    terminal = Console(file=io.StringIO(), force_terminal=True, width=100)
    monkeypatch.setattr(console, "err", terminal)
    items = (n for n in range(3)) if total is None else range(3)
    assert list(track(items, "Training", unit="epochs")) == [0, 1, 2]
    shown = terminal.file.getvalue()
    assert "Training" in shown
    assert "3/?" in shown if total is None else "3/3" in shown


def test_a_terminal_gets_a_bar_of_a_share(monkeypatch):
    terminal = Console(file=io.StringIO(), force_terminal=True, width=100)
    monkeypatch.setattr(console, "err", terminal)
    with watch("Building") as show:
        show(0.75)
        show(0.5)
    shown = terminal.file.getvalue()
    assert "Building" in shown
    assert "75%" in shown


def test_results_go_to_standard_output_and_notes_to_standard_error(capsys):
    summary("Student", {"mAP": 0.5, "weights": "a.safetensors"})
    table("Figures", ["arch", "mAP"], [["resnet18", 0.25], ["mobilenetv2_025", 0.5]])
    captured = capsys.readouterr()
    assert captured.err == ""
    for text in ("Student", "mAP", "0.5", "a.safetensors", "resnet18", "0.25", "mobilenetv2_025"):
        assert text in captured.out
    note("starts from random weights")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "starts from random weights" in captured.err


def test_brackets_are_printed_as_they_stand(capsys):
    note("pip install 'pivl-distill[trt]'")
    assert capsys.readouterr().err == "pip install 'pivl-distill[trt]'\n"

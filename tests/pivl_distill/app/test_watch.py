"""`pivl-distill watch`: which run, which curves, and that it ends with the run."""

from __future__ import annotations

import importlib.util
import io
import json
import os
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from command_line import refuse, succeed
from pivl_distill.app import watch
from pivl_distill.errors import PivlError

LINES = [
    {"stage": "prompts", "epoch": 1, "identity": 7.0},
    *(
        {
            "stage": "reid", "epoch": epoch, "identity": 3.0 / epoch, "triplet": 0.5,
            "accuracy": 1 - 1 / epoch, "learning_rate": 0.01, "crops_per_s": 1234.4,
        }
        for epoch in range(1, 6)
    ),
]  # fmt: skip


def write_run(folder: Path, kind: str = "student", lines: list[dict[str, Any]] = LINES) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(f"{kind}: {{}}\n")
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    pytest.importorskip("plotext", reason="plotext is not installed ([watch])")
    return write_run(tmp_path / "runs" / "student-1")


def text(folder: Path, rows: int = 200) -> str:
    console = Console(file=io.StringIO(), width=100)
    console.print(watch.draw(folder, watch.read_metrics(folder), (100, rows)))
    printed = console.file.getvalue()
    assert max(map(len, printed.splitlines())) <= 100
    return printed


def test_the_last_stage_is_drawn_with_its_last_values(folder):
    drawn = text(folder)
    assert "(stopped): stage reid, epoch 5, 1,234 crops/s" in " ".join(drawn.split())
    assert "loss terms  ■ identity 0.6  ■ triplet 0.5" in drawn
    assert "shares  ■ accuracy 0.8" in drawn
    assert "■ learning_rate 0.01" in drawn
    assert "7.0" not in drawn  # the value of the stage before
    assert drawn.count("┌") == 3
    assert any("▀" <= character <= "▟" for character in drawn)


def test_what_does_not_fit_is_left_out(folder):
    assert text(folder, rows=20).count("┌") == 1
    assert len(text(folder, rows=20).splitlines()) <= 20


def test_a_run_without_an_epoch_says_so(tmp_path):
    folder = write_run(tmp_path / "new", lines=[])
    assert "no epoch has ended yet" in watch.describe(folder, [])


def test_charts_have_every_curve(folder):
    charts = dict(watch.chart_curves(LINES[1:]))
    assert charts["loss terms"]["identity"] == [(n, 3.0 / n) for n in range(1, 6)]
    assert list(charts["loss terms"]) == ["identity", "triplet"]


def test_the_run_that_was_started_last_is_the_default(folder, monkeypatch):
    taught = write_run(folder.parent / "teach-1", "teach")
    os.utime(folder / "config.yaml", (1, 1))
    monkeypatch.chdir(folder.parents[1])
    assert watch.find_watched(None) == Path("runs") / taught.name
    assert watch.find_watched(folder) == folder


def test_the_command_draws_once_into_a_file(folder):
    assert "stage reid, epoch 5" in succeed("watch", folder)


def test_a_terminal_is_drawn_until_the_run_ends(folder, monkeypatch):
    drawn, running = [], iter([True, True, True, True, False])
    console = Console(file=io.StringIO(), force_terminal=True, width=100, height=40)
    real = watch.draw

    def sleep(seconds: float) -> None:
        with (folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(LINES[-1] | {"epoch": 5 + len(drawn)}) + "\n")

    def record(*arguments):
        drawn.append(len(arguments[1]))
        return real(*arguments)

    monkeypatch.setattr(watch, "out", console)
    monkeypatch.setattr(watch, "draw", record)
    monkeypatch.setattr(watch, "is_running", lambda run: next(running, False))
    monkeypatch.setattr(watch.time, "sleep", sleep)
    watch.watch_run(folder)
    assert drawn == [6, 7, 8]  # the title asks too whether the run goes on
    assert "epoch 6" in console.file.getvalue()


def test_wrong_input_is_an_error(folder, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    assert "contains no run" in refuse("watch", tmp_path / "empty")
    monkeypatch.chdir(tmp_path / "empty")
    assert "No teach or student run in" in refuse("watch")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(PivlError, match=r"pivl-distill\[watch\]"):
        watch.find_watched(folder)

"""TensorBoard and callbacks in real runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import pivl_distill
from command_line import QUICK, refuse, succeed
from pivl_distill.runs import tensorboard
from stopped_runs import EPOCHS, assert_same_student, kill_command, read_metrics
from tensorboard_events import read_scalars


def test_a_stopped_and_resumed_run_has_every_epoch_once(desk: Path) -> None:
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed ([tensorboard])")
    kill_command("student", *QUICK, *EPOCHS, "--tensorboard")
    succeed("student", "--resume", "--tensorboard")
    run = Path("runs/student-1")
    assert_same_student(run, Path("unstopped"))
    curves = read_scalars(run)
    lines = read_metrics(run)
    assert curves["reid/triplet"] == [
        (line["epoch"], pytest.approx(line["triplet"])) for line in lines
    ]
    scores = json.loads((run / "run.json").read_text())["retrieval"]
    assert curves["retrieval/mAP"] == [(0, pytest.approx(scores["mAP"]))]


def test_callbacks_of_the_api_get_the_lines_of_the_metrics(desk: Path) -> None:
    calls: list[tuple[str, object]] = []

    class Recorder(pivl_distill.Callback):
        def on_start(self, start):
            calls.append((start.command, start.folder))
            assert start.settings["stage2"]["epochs"] == 1
            assert not start.resumed

        def on_epoch(self, metrics):
            calls.append((metrics["stage"], metrics["epoch"]))

        def on_end(self, summary):
            calls.append(("end", summary["retrieval"]["mAP"]))

    report = pivl_distill.train_student(
        config="quick", stage2={"epochs": 1}, callbacks=[Recorder()]
    )
    expected = [("student", report.run), ("reid", 1), ("end", report.retrieval.mAP)]
    assert calls == expected


def test_without_tensorboard_nothing_is_started(desk: Path, monkeypatch) -> None:
    monkeypatch.setattr(tensorboard.importlib.util, "find_spec", lambda name: None)
    assert "pivl-distill[tensorboard]" in refuse("student", *QUICK, "--tensorboard")
    assert not Path("runs/student-1").exists()

"""The event file has the metrics of the run, also after a resume."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from pivl_distill.errors import PivlError
from pivl_distill.runs.callbacks import RunStart
from pivl_distill.runs.tensorboard import TensorBoardCallback
from tensorboard_events import read_scalars

LINES = [
    {"stage": "start", "epoch": 1, "relation": 0.75},
    {"stage": "reid", "epoch": 1, "triplet": 0.5, "accuracy": 0.25},
    {"stage": "reid", "epoch": 2, "triplet": 0.25, "accuracy": 0.5},
]
SUMMARY = {"kind": "student", "retrieval": {"mAP": 0.5, "camera_rule": True}}


@pytest.fixture
def start(tmp_path: Path) -> RunStart:
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed ([tensorboard])")
    (tmp_path / "config.yaml").write_text("student: {}\n")
    return RunStart(tmp_path, "student", {}, resumed=False)


def test_every_metric_is_a_curve_of_its_stage(start):
    callback = TensorBoardCallback()
    callback.on_start(start)
    for line in LINES:
        callback.on_epoch(line)
    callback.on_end(SUMMARY)
    assert read_scalars(start.folder) == {
        "start/relation": [(1, 0.75)],
        "reid/triplet": [(1, 0.5), (2, 0.25)],
        "reid/accuracy": [(1, 0.25), (2, 0.5)],
        "retrieval/mAP": [(0, 0.5)],
        "retrieval/camera_rule": [(0, 1)],
    }


def test_a_resumed_run_has_each_epoch_once(start):
    first = TensorBoardCallback()
    first.on_start(start)
    for line in LINES:
        first.on_epoch(line)
    first.on_end(None)
    kept = "".join(json.dumps(line) + "\n" for line in LINES[:2])  # the last epoch is repeated
    (start.folder / "metrics.jsonl").write_text(kept)
    second = TensorBoardCallback()
    second.on_start(start)
    second.on_epoch(LINES[2])
    second.on_end(None)
    assert read_scalars(start.folder)["reid/triplet"] == [(1, 0.5), (2, 0.25)]
    assert len(list((start.folder / "tensorboard").iterdir())) == 1


def test_without_tensorboard_the_error_names_the_extra(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(PivlError, match=r"pivl-distill\[tensorboard\]"):
        TensorBoardCallback()

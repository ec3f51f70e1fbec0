"""Callbacks: the order of calls, runs that are stopped, and callbacks that fail."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from pivl_distill.runs.callbacks import Callback, Observers, RunStart
from pivl_distill.runs.run import Run

START = RunStart(Path("runs/student-1"), "student", {"seed": 0}, resumed=False)


class Recorder(Callback):
    """Keeps every call."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, object]] = []

    def on_start(self, start):
        self.calls.append(("start", start))

    def on_epoch(self, metrics):
        self.calls.append(("epoch", metrics))

    def on_end(self, summary):
        self.calls.append(("end", summary))


class Failing(Callback):
    """Fails in every epoch."""

    def __init__(self) -> None:
        self.epochs = 0

    def on_epoch(self, metrics):
        self.epochs += 1
        raise ConnectionError("no network")


def test_a_run_tells_its_callbacks(tmp_path):
    recorder, run = Recorder(), Run.create("student", "student: {}\n", tmp_path / "run")
    run.observers = Observers([Callback(), recorder])
    with run.observers.session(START):
        run.log_metrics(stage="reid", epoch=1, triplet=0.5)
        run.finish("student", retrieval=None)
    assert recorder.calls == [
        ("start", START),
        ("epoch", {"stage": "reid", "epoch": 1, "triplet": 0.5}),
        ("end", {"kind": "student", "retrieval": None}),
    ]


def test_a_stopped_run_has_no_summary():
    recorder = Recorder()
    observers = Observers([recorder])
    with pytest.raises(KeyboardInterrupt), observers.session(START):
        raise KeyboardInterrupt
    assert recorder.calls[-1] == ("end", None)


def test_a_callback_that_fails_is_reported_once_and_stops_nothing(caplog):
    failing, recorder = Failing(), Recorder()
    observers = Observers([failing, recorder])
    with caplog.at_level(logging.WARNING), observers.session(START):
        for epoch in (1, 2, 3):
            observers.epoch({"stage": "reid", "epoch": epoch})
    assert failing.epochs == 1
    assert len(recorder.calls) == 5
    (record,) = caplog.records
    assert "Failing failed in on_epoch" in record.message
    assert "ConnectionError: no network" in record.message


def test_a_callback_can_stop_the_run():
    class Stopping(Callback):
        def on_epoch(self, metrics):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Observers([Stopping()]).epoch({})

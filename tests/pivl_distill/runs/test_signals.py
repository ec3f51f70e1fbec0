"""Signals during training: deferred to the end of the step, and handled once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable

import pytest

from pivl_distill.runs.progress import Progress
from small_run import STEPS, STEPS_PER_EPOCH
from stopped_runs import assert_same_run, kill_process
from stubs import MapStub


def send(number: int) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


@pytest.mark.parametrize(
    ("number", "stopped", "code"),
    [(signal.SIGTERM, SystemExit, 143), (signal.SIGINT, KeyboardInterrupt, None)],
)
def test_signal_is_deferred_until_state_is_saved(
    train_run, call_at_step, uninterrupted, tmp_path, caplog, number, stopped, code
):
    call_at_step(STEPS_PER_EPOCH + 2, send(number))
    with pytest.raises(stopped) as raised:
        train_run()
    assert getattr(raised.value, "code", None) == code
    assert f"resume it with `pivl-distill student --resume {tmp_path / 'run'}`" in caplog.text
    call_at_step(0, kill_process)
    network = train_run()
    assert f"Continuing after step {STEPS_PER_EPOCH + 2} of {STEPS}." in caplog.text
    assert_same_run(network, tmp_path / "run", uninterrupted)


def test_second_signal_is_not_deferred(train_run, call_at_step):
    def twice() -> None:
        send(signal.SIGINT)()
        send(signal.SIGINT)()
        raise AssertionError("the step continued")

    call_at_step(2, twice)
    with pytest.raises(KeyboardInterrupt):
        train_run()


@pytest.mark.parametrize("moment", ["reading data", "after the last step"])
def test_signal_outside_steps_stops_at_once(tmp_path, caplog, moment):
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    progress = Progress(tmp_path)

    def interrupted_session() -> None:
        with progress.session("teach"):
            if moment == "after the last step":
                assert list(progress.remaining_steps("reid", ())) == []
            send(signal.SIGTERM)()
            pytest.fail("continued")

    with pytest.raises(SystemExit) as raised:
        interrupted_session()
    assert raised.value.code == 143
    assert "pivl-distill teach --resume" in caplog.text
    assert handlers == [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]


def test_other_threads_install_no_handlers(train_run):
    trained: list[MapStub] = []
    thread = threading.Thread(target=lambda: trained.append(train_run()))
    thread.start()
    thread.join()
    assert len(trained) == 1


def test_ignored_signals_stay_ignored(tmp_path):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as under nohup
    try:
        with Progress(tmp_path).session("teach"):
            send(signal.SIGINT)()
    finally:
        signal.signal(signal.SIGINT, before)

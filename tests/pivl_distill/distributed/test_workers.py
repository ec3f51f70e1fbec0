"""Ctrl-C in a terminal reaches worker processes, which leave it to their parent."""

from __future__ import annotations

import signal
import threading
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest

from pivl_distill.distributed.workers import ctrl_c_ignored


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_workers_ignore_ctrl_c_and_their_parent_does_not(method: str) -> None:
    before = signal.getsignal(signal.SIGINT)
    with ProcessPoolExecutor(1, get_context(method)) as pool:
        with ctrl_c_ignored():
            handler = pool.submit(signal.getsignal, signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) == before
        assert handler.result() == signal.SIG_IGN


def test_other_threads_change_nothing() -> None:
    handlers = []

    def start_workers() -> None:
        with ctrl_c_ignored():
            handlers.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=start_workers)
    thread.start()
    thread.join()
    assert handlers == [signal.getsignal(signal.SIGINT)]

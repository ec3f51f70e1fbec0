"""SIGTERM and Ctrl-C, deferred to the end of a training step and agreed among processes."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from pivl_distill.distributed import process_group


class DeferredSignals:
    """Handlers of SIGTERM and SIGINT that defer the first signal; a second one is raised at once.

    Where there are several processes, each gets a signal more than once (from its terminal or job
    queue, and from torchrun), so that all of them are deferred there. torchrun kills processes that
    take too long.
    """

    def __init__(self) -> None:
        self.pending: int | None = None
        self._deferring = False

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Install the handlers inside the block.

        Outside the main thread, and for signals that are ignored, nothing changes.
        """
        in_main_thread = threading.current_thread() is threading.main_thread()
        previous = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        numbers = [n for n, old in previous.items() if in_main_thread and old != signal.SIG_IGN]
        for number in numbers:
            signal.signal(number, self._receive)
        try:
            yield
        finally:
            for number in numbers:
                signal.signal(number, previous[number] or signal.SIG_DFL)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Defer signals inside the block; raise the pending one at its end."""
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False
        if self.pending is not None:
            self._raise(self.pending)

    def pending_on_any_rank(self) -> bool:
        """Whether a signal is pending in any process, so that all stop after the same step."""
        self.pending = process_group.all_reduce_max(self.pending or 0) or None
        return self.pending is not None

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self._deferring and (self.pending is None or process_group.world_size() > 1):
            self.pending = number
        else:
            self._raise(number)

    @staticmethod
    def _raise(number: int) -> NoReturn:
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)

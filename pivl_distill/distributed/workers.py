"""Worker processes of this process, which share its terminal."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def ctrl_c_ignored() -> Iterator[None]:
    """Start worker processes inside the block: they inherit that Ctrl-C is ignored.

    A terminal sends it to the workers too. Only their parent reacts, which ends them when it ends;
    otherwise every worker would print a traceback. Outside the main thread, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous or signal.SIG_DFL)

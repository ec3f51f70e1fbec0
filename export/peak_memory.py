"""Peak memory, each time of a process of its own.

Nothing large is imported here: it would be counted to whatever is measured.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path


def peak_memory(run: Callable[..., None], *arguments: object) -> int | None:
    """Peak resident bytes of a new process that does `run(*arguments)` and nothing else.

    Python and the libraries it loads are in it. None where the system does not tell (not Linux).
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_peak_after, run, arguments).result()


def _peak_after(run: Callable[..., None], arguments: Sequence[object]) -> int | None:
    run(*arguments)
    status = Path("/proc/self/status")
    peak = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.exists() else None
    return 1024 * int(peak[1]) if peak else None

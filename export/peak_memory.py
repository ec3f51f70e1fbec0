"""Measure the peak memory of a function in a new process.

This module imports nothing large, because its imports count as part of the measurement.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from pivl_distill.distributed.workers import ctrl_c_ignored


def peak_memory(run: Callable[..., None], *arguments: object) -> int | None:
    """Return the peak resident memory, in bytes, of a new process that runs `run(*arguments)`.

    Includes Python and the libraries that `run` loads. None on systems other than Linux.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        with ctrl_c_ignored():
            measured = pool.submit(_peak_after, run, arguments)
        return measured.result()


def _peak_after(run: Callable[..., None], arguments: Sequence[object]) -> int | None:
    run(*arguments)
    status = Path("/proc/self/status")
    peak = (
        re.search(r"VmHWM:\s+(\d+) kB", status.read_text(encoding="utf-8"))
        if status.exists()
        else None
    )
    return 1024 * int(peak[1]) if peak else None

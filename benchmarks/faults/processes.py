"""Run commands of pivl-distill in forked processes, with a fault in them.

A server process imports everything once. A forked process then starts in milliseconds, and is
killed, or runs out of disk, like one that was started in a shell.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Protocol

EVERYTHING = "benchmarks.faults.preloaded"
TIME_LIMIT_S = 300.0
"""A process that takes longer hangs."""


class Fault(Protocol):
    """What goes wrong in a process; it is pickled and sent there."""

    def install(self, now: Connection) -> None:
        """Prepare the fault, before the command begins.

        For a kill from outside, the fault sends the seconds to wait through `now`.
        """

    def close(self) -> None:
        """Do what is left to do when the command has ended by itself."""


@dataclass(frozen=True)
class Ended:
    """A process that has ended."""

    code: int
    """Exit code; the negative number of a signal."""
    output: str
    """Standard output and error."""
    seconds: float

    @property
    def killed(self) -> bool:
        return self.code == -signal.SIGKILL


class Forks:
    """Runs commands in processes forked from a server that has imported some modules."""

    def __init__(self, *preloaded: str) -> None:
        """`preloaded` are modules; by default everything."""
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([*preloaded] or [EVERYTHING])

    def run(
        self,
        arguments: Sequence[str],
        folder: Path,
        cache: Path,
        log: Path,
        fault: Fault | None = None,
    ) -> Ended:
        """Run `pivl-distill` with these arguments and wait for its end.

        Args:
            arguments: of the command line.
            folder: working folder.
            cache: the cache folder.
            log: file for what it prints.
            fault: what goes wrong.
        """
        here, there = self._context.Pipe(duplex=False)
        settings = (list(arguments), folder, cache, log, fault)
        process = self._context.Process(target=_run, args=(*settings, there))
        start = time.monotonic()
        process.start()
        there.close()
        try:
            _kill_if_told(process, here)
            process.join(TIME_LIMIT_S)
            if process.is_alive():
                raise TimeoutError(f"pivl-distill {' '.join(arguments)} hangs: {log.read_text()}")
        finally:
            process.kill()
            here.close()
        assert process.exitcode is not None
        output = log.read_text(encoding="utf-8", errors="replace")
        return Ended(process.exitcode, output, time.monotonic() - start)


def _kill_if_told(process: multiprocessing.process.BaseProcess, now: Connection) -> None:
    """Wait until the process sends a time in seconds through `now`; kill it after that time."""
    wait([now, process.sentinel], TIME_LIMIT_S)
    try:
        delay_s = now.recv() if now.poll() else None
    except EOFError:  # it ended
        return
    if delay_s is not None:
        process.join(delay_s)
        process.kill()


def _run(
    arguments: list[str],
    folder: Path,
    cache: Path,
    log: Path,
    fault: Fault | None,
    now: Connection,
) -> None:
    """What the forked process does."""
    from pivl_distill.__main__ import main

    with log.open("wb") as file:
        os.dup2(file.fileno(), sys.__stdout__.fileno())
        os.dup2(file.fileno(), sys.__stderr__.fileno())
    os.chdir(folder)
    os.environ["PIVL_DISTILL_CACHE"] = str(cache)
    sys.argv = ["pivl-distill", *arguments]
    if EVERYTHING in sys.modules:
        sys.modules[EVERYTHING].shorten_latency()
    if fault is not None:
        fault.install(now)
    try:
        main()
    finally:
        if fault is not None:
            fault.close()

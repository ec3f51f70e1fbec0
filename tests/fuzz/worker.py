"""A process of its own that uses cases, so that a crash, a hang or much memory is only a verdict.

Only Linux has the limits and the measurements (`/proc`, `RLIMIT_AS`).
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import multiprocessing
import os
import re
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

from fuzz.case import Case
from fuzz.messages import fault_of_message

MEMORY_BYTES = 512 * 2**20
"""Most memory for one case, resident; of address space, twice as much."""
CPU_S, WALL_S = 10.0, 120.0
"""Most processor time for one case, and after which the process is taken to hang."""

_MAX_ARENAS = -8
"""glibc's mallopt parameter: each further arena reserves 64 MiB of address space."""
_PACKAGES = ("pivl_distill", "teachers", "students", "export")


@dataclass(frozen=True)
class Verdict:
    """What became of one case."""

    outcome: Literal["result", "refusal", "failure"]
    text: str = ""
    """The message of a refusal, or what failed, with a traceback."""
    signature: str = ""
    """Short text that is equal for failures of one cause."""
    cpu_s: float = 0.0
    peak_bytes: int = 0
    """Resident memory above that before the case."""


class Worker:
    """Examines cases in a process that is started again when it has died."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="pivl-fuzz-"))
        self._process: Any = None

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def examine(self, sort: str, case: Case) -> Verdict:
        """Use one case of a sort, and judge what happened."""
        if self._process is None:
            self._start()
        try:
            self._connection.send((sort, case))
            if self._connection.poll(WALL_S):
                verdict: Verdict = self._connection.recv()
                return verdict
            self._stop()
            return Verdict("failure", f"no answer within {WALL_S:.0f} s", "hangs", WALL_S)
        except (EOFError, ConnectionError):
            self._process.join()
            code = self._process.exitcode
            self._stop()
            return Verdict("failure", f"the process ended with exit code {code}", f"crash {code}")

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other, self._folder), daemon=True)
        self._process.start()
        other.close()

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._connection.close()
            self._process = None


def _serve(connection: Connection, folder: Path) -> None:
    """Examine what arrives until the connection is closed."""
    ctypes.CDLL("libc.so.6").mallopt(_MAX_ARENAS, 1)
    for stream in (sys.stdout, sys.stderr):  # also what libraries in C print
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    import torch

    from fuzz.sorts import SORTS
    from pivl_distill.cli.encoding import make_output_encodable
    from pivl_distill.log_handler import logs_on_stderr

    make_output_encodable()
    torch.set_num_threads(1)
    os.environ["PIVL_DISTILL_CACHE"] = str(folder / "cache")
    os.chdir(folder)
    logging.raiseExceptions = False
    with logs_on_stderr(), contextlib.suppress(EOFError, ConnectionError, KeyboardInterrupt):
        while True:
            sort, case = connection.recv()
            connection.send(_examine(SORTS[sort].use, case, folder / "case"))


def _examine(use: Callable[[Path, Path, Any], None], case: Case, place: Path) -> Verdict:
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    given, out = place / "given", place / "out"
    case.write(given)
    out.mkdir()
    before = _contents(given)
    with _limited_memory():
        start_bytes, start_s = _reset_peak(), time.process_time()
        verdict = _use(use, given, out, case)
        cpu_s, peak = time.process_time() - start_s, _status("VmHWM") - start_bytes
    fault = ""
    if _contents(given) != before:
        fault = "changed the input"
    elif partial := [path.name for path in out.rglob(".*.part*")]:
        fault = f"left partial files: {partial[:3]}"
    elif cpu_s > CPU_S:
        fault = f"took more than {CPU_S:.0f} s"
    elif peak > MEMORY_BYTES:
        fault = f"took more than {MEMORY_BYTES >> 20} MiB"
    if fault and verdict.outcome != "failure":
        verdict = Verdict("failure", f"{fault} ({verdict.text or 'a result'})", fault)
    return Verdict(verdict.outcome, verdict.text, verdict.signature, cpu_s, max(peak, 0))


def _use(use: Callable[[Path, Path, Any], None], given: Path, out: Path, case: Case) -> Verdict:
    from pivl_distill.errors import PivlError

    try:
        use(given, out, case.options)
    except PivlError as error:
        if fault := fault_of_message(str(error), given, case):
            return Verdict("failure", f"{fault}: {error}", f"message {fault}")
        return Verdict("refusal", str(error))
    except BaseException as error:
        text = "".join(traceback.format_exception(error))
        return Verdict("failure", text, _signature(error))
    return Verdict("result")


def _signature(error: BaseException) -> str:
    """Return the type of an exception and the last line of the product that it passed."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if any(f"/{name}/" in f.filename for name in _PACKAGES)] or frames
    return f"{type(error).__name__} in {Path(ours[-1].filename).stem}.{ours[-1].name}"


@contextlib.contextmanager
def _limited_memory() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (_status("VmSize") + 2 * MEMORY_BYTES, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def _reset_peak() -> int:
    """Reset the peak of resident memory; return what is resident now."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _status(field: str) -> int:
    """Return a field of /proc/self/status in bytes."""
    match = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert match is not None
    return int(match[1]) * 1024


def _contents(folder: Path) -> dict[str, bytes | None]:
    return {
        os.fsdecode(os.path.relpath(path, folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }

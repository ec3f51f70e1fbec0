"""The faults, as they are installed in a process: kills, full disks, flipped bits, jumping clocks.

Moments are counted in calls of functions or in written files, so that a fault can be repeated
exactly. Calls are seen by Python's profiler, and files by its audit events.
"""

from __future__ import annotations

import datetime
import functools
import hashlib
import json
import os
import pkgutil
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import Any

PAGE_BYTES = 4096
DAY_S = 24 * 3600


@dataclass
class Stages:
    """Counts the calls in each stage of a command, and kills the process at a moment.

    A stage begins with the first call of its function, such as "teachers.tuning:tune_prompts"; the
    first stage has none and begins with the command. A later stage does not end before its end.
    """

    functions: Sequence[str]
    kill_at: tuple[int, int] | None = None
    """SIGKILL is sent before this call: the number of the stage, and of a call in it from 1."""
    kill_after: tuple[int, float] | None = None
    """SIGKILL comes from outside: the number of the stage, and seconds after its start."""
    report: Path | None = None
    """Where calls and seconds of each stage are written when the command has ended."""
    counted: bool = True
    """Whether a report has the calls; counting them makes the seconds longer."""

    calls: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    _stage: int = 0
    _begun: float = 0.0

    def install(self, now: Connection) -> None:
        self.calls, self.seconds = [0] * len(self.functions), [0.0] * len(self.functions)
        for number, name in enumerate(self.functions):
            if name:
                call_before(name, functools.partial(self._begin, number, now))
        self._begin(0, now)

    def _begin(self, stage: int, now: Connection) -> None:
        """Begin a stage, unless it or a later one has begun."""
        if self._begun and stage <= self._stage:
            return
        self._end()
        self._stage = stage
        if self.kill_after is not None and stage == self.kill_after[0]:
            now.send(self.kill_after[1])
        reported = self.report is not None and self.counted
        if reported or (self.kill_at is not None and stage == self.kill_at[0]):
            sys.setprofile(self._count)

    def _end(self) -> None:
        present = time.monotonic()
        self.seconds[self._stage] += present - (self._begun or present)
        self._begun = present

    def _count(self, frame: FrameType, event: str, _: Any) -> None:
        if event in ("call", "c_call"):
            self.calls[self._stage] += 1
            if (self._stage, self.calls[self._stage]) == self.kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    def close(self) -> None:
        sys.setprofile(None)
        self._end()
        if self.report is not None:
            self.report.write_text(json.dumps({"calls": self.calls, "seconds": self.seconds}))


def call_before(name: str, action: Callable[[], None]) -> None:
    """Let a function or method, named "module:function", call `action` first.

    It is replaced wherever it was imported.
    """
    function = pkgutil.resolve_name(name)

    @functools.wraps(function)
    def replaced(*args: Any, **kwargs: Any) -> Any:
        action()
        return function(*args, **kwargs)

    module, _, path = name.partition(":")
    owner = pkgutil.resolve_name(f"{module}:{path.rpartition('.')[0]}") if "." in path else None
    for holder in [owner] if owner else list(sys.modules.values()):
        for key, value in list(vars(holder).items()):
            if value is function:
                setattr(holder, key, replaced)


@dataclass(frozen=True)
class WhenWritten:
    """Calls `action` when a file is opened for writing, before anything is written to it.

    Temporary files match by the name that they will get.
    """

    file: str
    """Regular expression of the file's name."""
    action: Callable[[Path], None]
    number: int | None = 1
    """Which of these openings, from 1; None: each of them."""

    def install(self, now: Connection) -> None:
        """As in `Fault`; nothing is sent."""
        pattern = re.compile(rf"\.?(?:{self.file})(?:\.\w+\.partial)?")
        seen, action, number = 0, self.action, self.number

        def listen(event: str, values: tuple[Any, ...]) -> None:
            nonlocal seen
            if event != "open" or not isinstance(values[0], str):
                return
            path, mode, flags = values
            writes = set(mode) & set("wa") if isinstance(mode, str) else flags & os.O_CREAT
            if writes and pattern.fullmatch(os.path.basename(path)):  # noqa: PTH119
                seen += 1
                if number in (None, seen):
                    action(Path(path))

        sys.addaudithook(listen)

    def close(self) -> None:
        """Nothing is left to do."""


BUG = "an error on purpose"


@dataclass(frozen=True)
class Bug:
    """Raises an exception that nobody foresaw when a function is called."""

    function: str
    further: WhenWritten
    """Another fault."""

    def install(self, now: Connection) -> None:
        """As in `Fault`; nothing is sent."""

        def fail() -> None:
            raise TypeError(BUG)

        call_before(self.function, fail)
        self.further.install(now)

    def close(self) -> None:
        """Nothing is left to do."""


@dataclass(frozen=True)
class FillDisk:
    """Fills a disk up, except for some bytes; writes down which files were on it by then."""

    ballast: Path
    """File that takes all room."""
    room_bytes: int
    listing: Path
    """JSON file on another disk: SHA-256 of each file by its path."""

    def __call__(self, path: Path) -> None:
        disk = self.ballast.parent
        self.listing.write_text(json.dumps(hashes(disk)))
        fill(self.ballast, self.room_bytes)


def fill(ballast: Path, room_bytes: int = 0) -> None:
    """Write a file that leaves `room_bytes`, in whole pages, of its disk."""
    with ballast.open("wb") as file:
        state = os.statvfs(ballast.parent)
        size = state.f_bavail * state.f_frsize - room_bytes // PAGE_BYTES * PAGE_BYTES
        os.posix_fallocate(file.fileno(), 0, size)


def hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file below a folder, by its relative path."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def make_read_only(path: Path) -> None:
    """Make the folder of the file that is about to be written read-only.

    Permissions do not stop root, who mounts the folder read-only instead, over itself.
    """
    folder = str(path.parent.absolute())
    if os.geteuid():
        path.parent.chmod(0o555)
    else:
        subprocess.run(["mount", "--bind", folder, folder], check=True)  # noqa: S607
        subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True)  # noqa: S607


def make_writable(folder: Path) -> None:
    """Undo `make_read_only` for a folder and those below it."""
    for path in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
        if os.geteuid():
            path.chmod(0o755)
        else:  # most are not mounted
            subprocess.run(["umount", str(path)], capture_output=True)  # noqa: S607


@dataclass(frozen=True)
class FlipBit:
    """Flips one bit of the first file that matches a pattern."""

    folder: Path
    pattern: str
    share: float = 0.5
    """Position in the file, 0 to 1."""

    def __call__(self, path: Path) -> None:
        target = min(self.folder.glob(self.pattern))
        with target.open("rb+") as file:
            place = int(self.share * target.stat().st_size)
            file.seek(place)
            byte = file.read(1)[0]
            file.seek(place)
            file.write(bytes([byte ^ 1]))


@dataclass(frozen=True)
class JumpingClock:
    """Lets the clock jump by days, forwards and backwards, whenever a file is written.

    The dates of files jump too; time.monotonic does not, which the system guarantees.
    """

    folders: tuple[Path, ...]
    """Files below these get other dates."""
    seed: int = 0

    def install(self, now: Connection) -> None:
        """As in `Fault`; nothing is sent."""
        rng, real, offset = random.Random(self.seed), time.time, 0.0

        def jump(_: Path) -> None:
            nonlocal offset
            offset = rng.uniform(-30, 30) * DAY_S
            for folder in self.folders:
                for path in folder.rglob("*"):
                    present = real() + rng.uniform(-30, 30) * DAY_S
                    with suppress(FileNotFoundError):
                        os.utime(path, (present, present))

        class Now(datetime.datetime):
            @classmethod
            def now(cls, tz: datetime.tzinfo | None = None) -> datetime.datetime:
                return datetime.datetime.fromtimestamp(time.time(), tz)

        time.time = lambda: real() + offset
        time.time_ns = lambda: int(time.time() * 1e9)
        datetime.datetime = Now  # type: ignore[misc]
        WhenWritten(".*", jump, number=None).install(now)

    def close(self) -> None:
        """Nothing is left to do."""

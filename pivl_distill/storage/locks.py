"""Locks between processes: one writes to a folder, the others are refused."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from pivl_distill.errors import PivlError
from pivl_distill.storage.files import LOCK

_LOCK_WAIT_S = 0.2
"""A process that only asks whether a run is going on holds its lock for a moment."""


@contextmanager
def locked(file: Path, refusal: str) -> Iterator[None]:
    """Hold the lock `file` inside the block; raise PivlError(refusal) if another process holds it.

    The folder of the file is created if missing. Raises OSError if that or the lock is impossible.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(file)
    try:
        lock.acquire(timeout=_LOCK_WAIT_S, poll_interval=_LOCK_WAIT_S / 10)
    except Timeout as error:
        raise PivlError(refusal) from error
    except NotImplementedError as error:  # old versions of filelock, for a system without flock
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK), str(file)) from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def locked_folder(folder: Path, refusal: str) -> Iterator[None]:
    """As `locked`, with a lock file in `folder` that is removed at the end.

    A process that opened the file before its removal finds what the first one has written.
    """
    file = folder / LOCK
    with locked(file, refusal):
        try:
            yield
        finally:
            with suppress(OSError):  # some systems cannot remove an open file
                file.unlink()

"""Atomic file writes: a crash leaves the old file or the new one, never a partial one."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pivl_distill.errors import PivlError
from pivl_distill.storage.finite import find_nonfinite_numbers

_PARTIAL = ".partial"
LOCK = ".lock"
"""Name of the lock file of a folder that holds other files too."""
MAX_NAMED = 5
"""Numbers named in an error message."""


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield an empty temporary file, which replaces `path` if the block ends without an exception.

    Its contents are synced to disk before the rename, so that a power failure leaves no partial
    file. The folder of `path` is created if missing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(_PARTIAL, prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        os.replace(temporary, path)  # noqa: PTH105  (same call on all platforms)
        _sync_folder(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def check_writable(path: Path) -> None:
    """Raise PivlError unless a file can be written at `path`; create its folder if missing.

    For commands that write their result after a long computation.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise PivlError(
            f"Cannot write to '{path}' ({error.strerror}); choose another path."
        ) from error


def write_bytes(path: Path, data: bytes) -> None:
    """Replace `path` atomically; create its folder if missing."""
    with atomic_write(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Replace `path` atomically by UTF-8 text."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Replace `path` atomically by a JSON value, indented, with a final newline.

    Raises PivlError, and writes nothing, if a number is not finite.
    """
    require_finite(value, path)
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def require_finite(value: Any, path: Path) -> None:
    """Raise PivlError if a number in a JSON value that is to be written to `path` is not finite."""
    if broken := list(find_nonfinite_numbers(value)):
        raise PivlError(
            f"'{path}' was not written, because it would hold numbers that are not finite:"
            f" {', '.join(broken[:MAX_NAMED])}. The network or the data that they were computed"
            " from is broken."
        )


@contextmanager
def locked(file: Path, refusal: str) -> Iterator[None]:
    """Hold the lock `file` inside the block; raise PivlError(refusal) if another process holds it.

    The folder of the file is created if missing.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(file)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise PivlError(refusal) from error
    try:
        yield
    finally:
        lock.release()


def is_empty(folder: Path) -> bool:
    """Whether a folder is missing or holds only its lock file and partial files."""
    return not folder.exists() or all(
        path.name == LOCK or (path.name.startswith(".") and path.suffix == _PARTIAL)
        for path in folder.iterdir()
    )


def remove_partial(folder: Path) -> None:
    """Remove partial files in `folder` and below; no process may be writing there."""
    for path in folder.rglob(f".*{_PARTIAL}"):
        path.unlink()


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _sync_folder(folder: Path) -> None:
    """Sync a rename to disk; systems other than POSIX cannot open folders and need not."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

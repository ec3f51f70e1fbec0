"""Writing files so that a crash leaves the old one or the new one, never half of one."""

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

_PARTIAL = ".partial"
LOCK = ".lock"
"""What the lock of a folder is called where it lies among other files."""


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """An empty file to write to, which takes the place of `path` if the block ends well.

    It reaches the disk before its name does, so that nothing is half there if power is lost. The
    folder of `path` is made if missing.
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
    """PivlError unless a file can be written at `path`; its folder is made if missing.

    For commands that write their result after long work.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise PivlError(
            f"Nothing can be written to '{path}' ({error.strerror}); name another place."
        ) from error


def write_bytes(path: Path, data: bytes) -> None:
    """Replace `path` atomically; its folder is made if missing."""
    with atomic_write(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """`write_bytes` for UTF-8 text."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """`write_bytes` for a JSON value, indented, with a final newline."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


@contextmanager
def locked(file: Path, refusal: str) -> Iterator[None]:
    """Inside, no other process holds the lock `file`; PivlError(refusal) if one does already.

    The folder of the file is made if missing.
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
    """Whether a folder holds nothing but its lock and what killed writes left, or is not there."""
    return not folder.exists() or all(
        path.name == LOCK or (path.name.startswith(".") and path.suffix == _PARTIAL)
        for path in folder.iterdir()
    )


def remove_partial(folder: Path) -> None:
    """Remove what killed writes left in `folder` and below; nobody may be writing there."""
    for path in folder.rglob(f".*{_PARTIAL}"):
        path.unlink()


def sha256(path: Path) -> str:
    """SHA-256 (hex) of a file."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _sync_folder(folder: Path) -> None:
    """Make a rename last; other systems than POSIX cannot open folders and need not."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

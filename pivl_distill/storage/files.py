"""Atomic file writes: a crash leaves the old file or the new one, never a partial one.

Only the standard library is imported, so that the runtime can use this module.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from pivl_distill.errors import PivlError
from pivl_distill.storage.filenames import utf8_name
from pivl_distill.storage.finite import find_nonfinite_numbers

try:
    import fcntl
except ImportError:  # systems other than POSIX
    fcntl = None  # type: ignore[assignment]

_PARTIAL, _PARTIAL_FOLDER = ".partial", ".part"
LOCK = ".lock"
"""Name of the lock file of a folder that holds other files too."""
MAX_NAMED = 5
"""Numbers named in an error message."""
_PROBE_BYTES = 4096
"""Written to find a full disk: an empty file often fits on one."""


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield an empty temporary file, which replaces `path` if the block ends without an exception.

    Its contents are synced to disk before the rename, so that a power failure leaves no partial
    file. The folder of `path` is created if missing. An OSError names `path`, also where the system
    names no file, as for a full disk.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(_PARTIAL, prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        with _claimed(temporary):
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            temporary.chmod(0o644)
            os.replace(temporary, path)  # noqa: PTH105  (same call on all platforms)
        _sync_folder(path.parent)
    except BaseException as error:
        with suppress(OSError):  # its folder may be gone; the first error is the one to report
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename in (None, name, temporary):
            _name_file(error, path)
        raise


def _name_file(error: OSError, path: Path) -> None:
    """Let the message of a system error name `path`."""
    if error.errno is not None:
        error.filename, error.filename2 = str(path), None


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield an empty temporary folder, which becomes `path` if the block ends without an exception.

    Its name is unique, also where machines share the disk. The folder of `path` is created if
    missing. Raises OSError if another process created `path` in the meantime. An error without a
    file, as for a full disk, names `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    name = tempfile.mkdtemp(_PARTIAL_FOLDER, prefix=f".{path.name}.", dir=path.parent)
    temporary = Path(name)
    try:
        temporary.chmod(0o755)
        with _claimed(temporary):
            yield temporary
        temporary.rename(path)
    except OSError as error:
        if error.filename is None:
            _name_file(error, path)
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def _claimed(temporary: Path) -> Iterator[bool]:
    """Hold a lock on a temporary file or folder inside the block, which ends with the process.

    Yields False if another process holds it. Without locks, as on some networks, nobody does.
    """
    if fcntl is None:
        yield False
        return
    handle = os.open(temporary, os.O_RDONLY if temporary.is_dir() else os.O_RDWR)
    try:
        claimed = True
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            claimed = False
        yield claimed
    finally:
        os.close(handle)


def remove_abandoned(path: Path) -> None:
    """Remove what killed processes left of their writes of `path`, by the functions above.

    What another process is writing at this moment stays.
    """
    for temporary in path.parent.glob(f".{glob.escape(path.name)}.*"):
        if temporary.suffix not in (_PARTIAL, _PARTIAL_FOLDER):
            continue
        with suppress(OSError), _claimed(temporary) as abandoned:
            if abandoned and temporary.is_dir():
                shutil.rmtree(temporary)
            elif abandoned:
                temporary.unlink()


def check_writable(path: Path, *, folder: bool = False) -> None:
    """Raise PivlError unless a file, or with `folder` a folder of files, can be written at `path`.

    For outputs of a long computation, before it begins. Nothing is left behind; missing folders are
    not created. A disk that is read-only or full is found by writing to it. Names of folders must
    be UTF-8: safetensors and ONNX Runtime open no others.
    """
    try:
        if not folder and path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        if folder and utf8_name(str(path)) != str(path):
            raise OSError(errno.EINVAL, "not UTF-8, so that libraries cannot open files there")
        with suppress(FileNotFoundError):
            path.stat()  # below a file, a name that is too long, links in a circle
        target = path if folder else path.parent
        exists = next((p for p in (target, *target.parents) if os.path.lexists(p)), Path())
        if not exists.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, f"{exists} is not a folder")
        _probe(exists, path.name)
    except OSError as error:
        reason = error.strerror or error
        raise PivlError(f"Cannot write to '{path}' ({reason}); choose another path.") from error


def _probe(folder: Path, name: str) -> None:
    """Write and remove a file in `folder`, under the name that `atomic_write` would use."""
    handle, probe = tempfile.mkstemp(_PARTIAL, prefix=f".{name}.", dir=folder)
    try:
        rest = bytes(_PROBE_BYTES)
        while rest:  # a system without room for all of it writes a part first
            rest = rest[os.write(handle, rest) :]
        os.fsync(handle)
    finally:
        os.close(handle)
        Path(probe).unlink(missing_ok=True)  # another process may have taken it for abandoned


def append_bytes(path: Path, data: bytes) -> None:
    """Append to a file, created if missing, and sync it to disk.

    After an OSError, which names `path`, the file is as before: part of the data may have fit.
    """
    existed = path.exists()
    with path.open("ab", buffering=0) as file:
        length, rest = file.tell(), data
        try:
            while rest:
                rest = rest[file.write(rest) :]
            os.fsync(file.fileno())
        except OSError as error:
            with suppress(OSError):
                file.truncate(length) if existed else path.unlink()
            _name_file(error, path)
            raise


def write_bytes(path: Path, data: bytes) -> None:
    """Replace `path` atomically; create its folder if missing."""
    with atomic_write(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Replace `path` atomically by UTF-8 text.

    A byte of a file name that is not UTF-8, in Python a lone surrogate, is written as its escape
    sequence, such as `\\udce9`. In JSON, reading it back gives the same name.
    """
    write_bytes(path, text.encode(errors="backslashreplace"))


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


def expand_user(path: str) -> Path:
    """Return the path with `~` replaced; raises PivlError if that home folder is unknown."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise PivlError(f"{path}: {error} Write the path in full.") from error


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return sha256_of(file)


def sha256_of(file: BinaryIO) -> str:
    """Return the SHA-256 of the rest of an open file, in hexadecimal."""
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

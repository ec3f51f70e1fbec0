"""Memory-mapped files of the cache, and whether their contents have changed since they were opened.

A mapping shows what is in its file at any time. Where a disk fails or another program writes to the
file, crops and features of a command change while it computes with them. Each mapped file therefore
stays open, and `check_unchanged` compares its size and dates with those before it was hashed; if
they differ, its hash. Results are kept only after this check.
"""

from __future__ import annotations

import os
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from pivl_distill.storage.cache_dir import CacheError
from pivl_distill.storage.files import sha256_of


class ChangedFileError(CacheError):
    """A file changed while it was in use; the command must be repeated."""


@dataclass(eq=False)
class _MappedFile:
    path: Path
    file: BinaryIO
    sha256: str
    state: tuple[int, int, int]

    def is_unchanged(self) -> bool:
        """Whether the contents are those that were opened; they are read only if in doubt."""
        if (state := _state(self.file)) == self.state:
            return True
        self.file.seek(0)
        self.state = state  # an entry that is evicted gets another date, and keeps its contents
        return sha256_of(self.file) == self.sha256


_mapped: set[_MappedFile] = set()
"""The files of all arrays that exist."""


def map_array(path: Path, sha256: str) -> np.ndarray:
    """Return the array in a .npy file, memory-mapped; writing to it does not change the file.

    Raises ValueError unless the file has this SHA-256 and holds an array, OSError if it cannot be
    read.
    """
    file = path.open("rb")
    try:
        state = _state(file)
        if sha256_of(file) != sha256:
            raise ValueError(f"{path} has another hash")
        array: np.ndarray = np.lib.format.open_memmap(path, mode="c")
    except BaseException:
        file.close()
        raise
    mapped = _MappedFile(path, file, sha256, state)
    _mapped.add(mapped)
    weakref.finalize(array.base, _forget, mapped)
    return array


def check_unchanged() -> None:
    """Raise ChangedFileError if the contents of a file have changed while its array was in use.

    Each process checks the files that it has mapped. Without a change, this takes no time.
    """
    for mapped in [*_mapped]:
        if not mapped.is_unchanged():
            raise ChangedFileError(
                f"'{mapped.path}' changed while this command was using it: another program wrote to"
                " the cache, or its disk fails. Nothing that was computed from it since then is"
                " kept. Run the command again, it computes the entry again; PIVL_DISTILL_CACHE"
                " names another folder."
            )


def _state(file: BinaryIO) -> tuple[int, int, int]:
    status = os.fstat(file.fileno())
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _forget(mapped: _MappedFile) -> None:
    _mapped.discard(mapped)
    mapped.file.close()

"""Files of an export folder: only in that folder, and only with the hash of its manifest."""

from __future__ import annotations

import hashlib
from pathlib import Path

from pivl_distill.errors import PivlError
from pivl_distill.storage.files import sha256
from pivl_distill.storage.limits import MAX_ONNX_BYTES
from pivl_distill.storage.readers import check_inside, read_bytes


def check_file(path: Path, size: int, digest: str) -> None:
    """Raise PivlError unless the file has the size in bytes and the SHA-256 of the manifest."""
    if not _has_size(path, size) or sha256(path) != digest:
        raise _wrong_file(path)


def read_verified(path: Path, size: int, digest: str) -> bytes:
    """Return the contents of a file, checked like `check_file`.

    The file is read once, so that the contents that are used are those that were verified.
    """
    data = read_bytes(path, MAX_ONNX_BYTES) if _has_size(path, size) else b""
    if hashlib.sha256(data).hexdigest() != digest:
        raise _wrong_file(path)
    return data


def _has_size(path: Path, size: int) -> bool:
    """Whether a file has this size; raises PivlError if it is missing, truncated or elsewhere."""
    if not path.is_file():
        raise PivlError(f"{path} is missing but in the manifest; copy the whole export.")
    check_inside(path)
    if (found := path.stat().st_size) < size:
        raise PivlError(f"{path} is truncated: {found:,} of {size:,} bytes; copy it again.")
    return found == size


def _wrong_file(path: Path) -> PivlError:
    return PivlError(f"{path} is not the file its manifest describes; copy or export it again.")

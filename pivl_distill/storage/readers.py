"""Read files that others may have made: regular files only, at most so many bytes, in few lines.

Only the standard library is imported, so that the runtime can use this module.
"""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

from pivl_distill.errors import PivlError
from pivl_distill.storage.limits import MAX_JSON_BYTES, MAX_JSON_DEPTH, MIB
from pivl_distill.storage.paths import is_inside


def check_size(path: Path, limit: int) -> int:
    """Return the size of a regular file in bytes.

    Raises PivlError if there is no such file, if it is a folder, device or pipe, or if it exceeds
    `limit` bytes.
    """
    try:
        status = path.stat()
    except (OSError, ValueError) as error:  # no such file, a loop of links, a zero byte in the name
        raise PivlError(f"There is no file {path}.") from error
    if not stat.S_ISREG(status.st_mode):
        raise PivlError(f"{path} is a folder, device or pipe, not a file.")
    size = status.st_size
    if size > limit:
        raise PivlError(
            f"{path} has {size / MIB:,.1f} MiB, but such a file has at most {limit / MIB:,g} MiB;"
            " it is damaged, or not what its name says."
        )
    return size


def check_inside(path: Path) -> None:
    """Raise PivlError if a file is a symbolic link to outside of its folder."""
    if not is_inside(path, path.parent):
        raise PivlError(f"{path} is a link to outside of its folder; copy the file itself there.")


def read_bytes(path: Path, limit: int) -> bytes:
    """Return the contents of a file; raises PivlError like `check_size`, and if it is unreadable.

    A file that grows while it is read is cut off at its size before.
    """
    size = check_size(path, limit)
    try:
        with path.open("rb") as file:
            return file.read(size)  # which takes so much memory at once
    except OSError as error:
        raise PivlError(f"Cannot read {path}: {error.strerror}.") from error


def read_text(path: Path, limit: int) -> str:
    """Read UTF-8 text with or without a byte order mark; raises PivlError like `read_bytes`."""
    try:
        return read_bytes(path, limit).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise PivlError(f"{path} is not UTF-8 text ({error.reason}); save it as UTF-8.") from error


def read_json(path: Path, what: str) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises PivlError if it is missing, larger than `MAX_JSON_BYTES` or not such a file; the message
    says that it is not `what`, for example "a manifest".
    """
    data = read_bytes(path, MAX_JSON_BYTES)
    try:
        return parse_json_object(data)
    except ValueError as error:
        raise PivlError(f"{path} is not {what}: {error}.") from error


def parse_json_object(text: str | bytes) -> dict[str, Any]:
    """Return the JSON object in UTF-8 `text`; raises ValueError as `parse_json` does."""
    value = parse_json(text)
    if not isinstance(value, dict):
        raise ValueError("it holds no JSON object")
    return value


def parse_json(text: str | bytes) -> Any:
    """Return the JSON value in UTF-8 `text`.

    Raises ValueError for anything else, and for lists and objects nested deeper than
    `MAX_JSON_DEPTH`.
    """
    too_deep = f"lists and objects are nested deeper than {MAX_JSON_DEPTH} levels"
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise ValueError(too_deep) from error
    level = [value]
    for _ in range(MAX_JSON_DEPTH):
        level = [child for parent in level for child in _children(parent)]
        if not level:
            return value
    raise ValueError(too_deep)


def _children(value: Any) -> list[Any]:
    """Return the lists and objects directly in a JSON value."""
    values = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [child for child in values if isinstance(child, list | dict)]

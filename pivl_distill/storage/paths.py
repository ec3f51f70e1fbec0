"""Names and paths found in files: they must stay in the folder that the user named.

Rules are the same on every system, so that a file made for one of them is not harmless on another:
no absolute paths, no drive letters, no `..`, and `/` as the only separator.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath, PureWindowsPath


def plain_name(name: object) -> str:
    """Return the name of a file directly in a folder; raises ValueError for anything else."""
    plain = isinstance(name, str) and name not in ("", ".", "..") and not set(name) & {*"/\\:\0"}
    if not plain:
        raise ValueError(f"{shown(name)} is not a plain file name")
    return str(name)


def check_relative(path: str) -> None:
    """Raise ValueError unless `path` is relative and, read literally, stays in its folder.

    Symbolic links are not resolved.
    """
    if not _parts(path):
        raise ValueError(f"{shown(path)} names no file")


def relative_path(path: str) -> str:
    """Return a path that `check_relative` accepts; raises ValueError for any other."""
    check_relative(path)
    return path


def is_file(path: Path) -> bool:
    """Whether `path` is a file; False for a name that no file can have, which is an error else."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # too long, a zero byte
        return False


def is_inside(path: Path, folder: Path) -> bool:
    """Whether `path` is in `folder` or below it once all symbolic links are resolved."""
    try:
        return path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError, ValueError):  # a loop of links, a zero byte
        return False


def shown(value: object, length: int = 80) -> str:
    """Return `value` as it is quoted in messages: escaped, and cut if it is long.

    >>> shown("a/b")
    "'a/b'"
    """
    text = repr(value[: length + 1] if isinstance(value, str | bytes) else value)
    return text if len(text) <= length else f"{text[:length]}…"


def _parts(path: str) -> tuple[str, ...]:
    """Return the parts of a relative path; raises ValueError if it leaves its folder."""
    if "\0" in path:
        raise ValueError(f"{shown(path)} contains a zero byte")
    if "\\" in path:
        raise ValueError(f"{shown(path)} contains a backslash; separate folders by /")
    parts = PurePosixPath(path).parts
    if path.startswith("/") or PureWindowsPath(path).drive or ".." in parts:
        raise ValueError(f"{shown(path)} leads out of its folder")
    return parts

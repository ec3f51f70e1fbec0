"""What every layout on disk shares: where it lies, which files are images, which lists hold."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from pivl_distill.errors import PivlError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp")
JUNK_PID = -1
"""Crops of nobody, dropped as every loader of the field drops them."""

_NUMBER = re.compile(r"-?[0-9]{1,18}")


def find_dataset_root(
    root: Path, title: str, forms: Sequence[tuple[str, ...]], places: Sequence[str] = (".",)
) -> tuple[Path, tuple[str, ...]]:
    """The first of `places` below `root` that holds all folders of one of `forms`, and that form.

    Raises PivlError if there is none.
    """
    for place, folders in itertools.product(places, forms):
        if all((root / place / folder).is_dir() for folder in folders):
            return root / place, folders
    if not root.is_dir():
        raise PivlError(f"No {title} dataset at {root}: there is no such folder.")
    if any(root.name in folders for folders in forms):
        raise PivlError(f"{root} is one split of a {title} dataset; name the folder above it.")
    wanted = " or ".join(", ".join(folders) for folders in forms)
    elsewhere = f" and in {', '.join(places[1:])}" if places[1:] else ""
    raise PivlError(
        f"No {title} dataset at {root}: looked for the folders {wanted} there{elsewhere}."
    )


def list_images(folder: Path) -> list[Path]:
    """The images directly in `folder`, by name.

    Hidden files (macOS leaves `._0002_c1s1.jpg`) and other kinds (Market-1501 has Thumbs.db) are
    passed over.
    """
    paths = (path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    return sorted((path for path in paths if path.name[0] != "."), key=lambda path: path.name)


def find_images(folder: Path) -> list[Path]:
    """The images in `folder` and in every folder below it, by path; hidden ones are passed over.

    Raises PivlError if there is no such folder.
    """
    if not folder.is_dir():
        raise PivlError(f"There is no folder {folder}.")
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES
        and not any(part[0] == "." for part in path.relative_to(folder).parts)
    )


def require_images(count: int, place: object) -> None:
    """PivlError if a split, found at `place`, came out empty."""
    if not count:
        raise PivlError(
            f"{place} holds no images ({', '.join(IMAGE_SUFFIXES)}; pid {JUNK_PID} does not count)."
        )


def require_files(paths: Iterable[Path], source: Path) -> None:
    """PivlError, with the first of them, if files that the list `source` names are missing."""
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise PivlError(
            f"{source} names {len(missing)} files that are not there (first: {missing[0]}). "
            "Unpack the dataset again, or remove their lines."
        )


def read_text(path: Path) -> str:
    """A UTF-8 text, with or without a byte order mark; PivlError if it is missing or not text."""
    if not path.is_file():
        raise PivlError(f"There is no file {path}.")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise PivlError(f"{path} is not UTF-8 text ({error.reason}); save it as UTF-8.") from error


def parse_integer(text: str) -> int | None:
    """The number that `text` writes in plain digits, or None."""
    return int(text) if _NUMBER.fullmatch(text) else None

"""Where the images of a data set were looked for, and which of them its loader leaves out."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pivl_distill.data.listing import LongNumberError
from pivl_distill.errors import PivlError

T = TypeVar("T")

MAX_UNUSED = 0.01
"""Share of the images above which unused ones are a problem."""

MISNAMED = "images whose names do not match"
BY_PROTOCOL = "images left out by the protocol"


@dataclass(frozen=True)
class LeftOut:
    """An image that a loader found and does not use, and the reason, as `check` prints it."""

    path: Path
    reason: str
    remedy: str = ""
    """Of a misnamed image: what is wrong with it and what to do."""


def unknown_person(place: str) -> str | None:
    """Return None: paths do not tell the person."""
    return None


def first_folder(place: str) -> str | None:
    """Return the first part of a path if it is a number: the identity's folder."""
    first = Path(place).parts[0]
    return first if first.isdecimal() else None


@dataclass(frozen=True)
class Searched:
    """The folders of one data set; all their images are expected to be used."""

    folders: tuple[Path, ...]
    """Folders of the splits, with everything below."""
    root: Path | None = None
    """Folder that contains them, of which files and folders directly in it are looked at too."""
    lists: tuple[Path, ...] = ()
    """Files that name the images; without any, images are found by their place and name."""
    left_out: tuple[LeftOut, ...] = ()
    person: Callable[[str], str | None] = unknown_person
    """The person of an image or folder, by its path below the folder of its split."""


def read_names(
    paths: Iterable[Path], read: Callable[[Path], T]
) -> tuple[list[T], tuple[LeftOut, ...]]:
    """Apply `read` to every path; images for which it raises PivlError are left out as misnamed.

    Raises the first PivlError if there is no other image, and every LongNumberError: numbers that
    are too long come from a system that numbers people so, and are not left out.
    """
    items: list[T] = []
    errors: dict[Path, PivlError] = {}
    for path in paths:
        try:
            items.append(read(path))
        except LongNumberError:
            raise
        except PivlError as error:
            errors[path] = error
    if errors and not items:
        raise next(iter(errors.values()))
    return items, tuple(LeftOut(path, MISNAMED, str(error)) for path, error in errors.items())

"""Shared by all layouts on disk: find the dataset's root, list images, read list files."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from pivl_distill.errors import PivlError
from pivl_distill.storage import readers
from pivl_distill.storage.limits import MAX_TABLE_BYTES
from pivl_distill.storage.paths import shown

IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff",
)  # fmt: skip
"""Endings of the files that are read as images, in lower case; upper case is read too."""
JUNK_PID = -1
"""Identity of junk crops, which are dropped, as in other ReID codebases."""
_PLURALS = {"identity": "identities", "camera": "cameras"}

_LEFT_BY_SYSTEMS = frozenset(
    (
        "__macosx", "icon\r",  # macOS; all else of it begins with a dot
        "thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "system volume information",
        "@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot",  # NAS
        "lost+found", "__pycache__",
    )
)  # fmt: skip
MAX_DIGITS = 18
"""Digits of an identity or camera number; any number of 18 digits fits into 64 bits."""
_NUMBER = re.compile(rf"-?[0-9]{{1,{MAX_DIGITS}}}")


class LongNumberError(PivlError):
    """The number of an identity or camera is longer than 64 bits hold: no typing error."""


def find_dataset_root(
    root: Path, title: str, layouts: Sequence[tuple[str, ...]], subfolders: Sequence[str] = (".",)
) -> tuple[Path, tuple[str, ...]]:
    """Find the folder that contains a dataset's split folders.

    Args:
        root: folder that the user named.
        title: name of the dataset in error messages.
        layouts: accepted sets of split folders, the training split first.
        subfolders: folders below `root` to search, in this order.

    Returns: the first subfolder that contains all folders of a layout, and that layout; if there is
        none, the first that contains the training split of one.

    Raises: PivlError if there is neither.
    """
    places = list(itertools.product(subfolders, layouts))
    for required in (slice(None), slice(1)):
        for subfolder, folders in places:
            if all((root / subfolder / folder).is_dir() for folder in folders[required]):
                return root / subfolder, folders
    if not root.is_dir():
        raise PivlError(f"No {title} dataset at {root}: there is no such folder.")
    if any(root.name in folders for folders in layouts):
        raise PivlError(f"{root} is one split of a {title} dataset; name its parent folder.")
    expected = " or ".join(", ".join(folders) for folders in layouts)
    elsewhere = f" and in {', '.join(subfolders[1:])}" if subfolders[1:] else ""
    raise PivlError(
        f"No {title} dataset at {root}: looked for the folders {expected} there{elsewhere}."
    )


def list_images(folder: Path) -> list[Path]:
    """List the images directly in `folder`, sorted by name.

    Files left by other systems (macOS leaves `._0002_c1s1.jpg`) and other types (Market-1501 has
    Thumbs.db) are ignored; `unused` reports them. A folder that does not exist has none: a test
    split may be missing.
    """
    if not folder.is_dir():
        return []
    return [Path(entry.path) for entry in scan_folder(folder) if _is_image(entry)]


def find_images(folder: Path) -> list[Path]:
    """List the images in `folder` and all its subfolders, sorted by path.

    Files and folders left by other systems are ignored. Raises PivlError if the folder does not
    exist.
    """
    if not folder.is_dir():
        raise PivlError(f"There is no folder {folder}.")
    return sorted(Path(entry.path) for entry in walk_folder(folder) if _is_image(entry))


def scan_folder(folder: Path) -> list[os.DirEntry[str]]:
    """Return everything directly in `folder`, sorted by name; PivlError if it cannot be listed."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise PivlError(f"Cannot list the folder {folder}: {error.strerror}.") from error


def walk_folder(
    folder: Path, enter: Callable[[os.DirEntry[str]], bool] = lambda entry: True
) -> Iterator[os.DirEntry[str]]:
    """Yield everything below `folder`; a folder before its contents.

    Folders that are links, were left by other systems or that `enter` rejects are not entered.
    """
    for entry in scan_folder(folder):
        yield entry
        if is_left_by_system(entry.name) or entry.is_symlink():
            continue
        if is_folder(entry) and enter(entry):
            yield from walk_folder(Path(entry.path), enter)


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether this is a folder or a link to one; a broken link is not."""
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def is_left_by_system(name: str) -> bool:
    """Whether a file or folder of this name is hidden or left by a system, a NAS or a tool."""
    return name[0] == "." or name.lower() in _LEFT_BY_SYSTEMS


def _is_image(entry: os.DirEntry[str]) -> bool:
    name = entry.name
    ending = os.path.splitext(name)[1].lower()  # noqa: PTH122  (called for every file)
    return ending in IMAGE_SUFFIXES and not is_left_by_system(name) and not is_folder(entry)


def require_images(count: int, place: object) -> None:
    """Raise PivlError if the split at `place` has no images."""
    if not count:
        raise PivlError(
            f"{place} contains no images ({', '.join(IMAGE_SUFFIXES)}; pid {JUNK_PID} is not "
            "counted)."
        )


def require_files(paths: Iterable[Path], source: Path) -> None:
    """Raise PivlError if files that the list `source` names are missing."""
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise PivlError(
            f"{source} names {len(missing)} files that do not exist (first:"
            f" {shown(str(missing[0]), 500)}). "
            "Unpack the dataset again, or remove their lines."
        )


def read_text(path: Path) -> str:
    """Read a list of images, UTF-8 text; raises PivlError if that fails or it is too large."""
    return readers.read_text(path, MAX_TABLE_BYTES)


def parse_integer(text: str) -> int | None:
    """Parse up to `MAX_DIGITS` decimal digits with an optional minus sign; None for others."""
    return int(text) if _NUMBER.fullmatch(text) else None


def parse_label(text: str, what: str, where: object) -> int:
    """Parse the number of an identity or a camera, as `parse_integer` does.

    Args:
        text: the number as written.
        what: "identity" or "camera".
        where: the file, folder or line that has it, for the message.

    Raises: PivlError if it is no integer or has more digits than 64 bits hold.
    """
    number = parse_integer(text)
    if number is None:
        digits = text.removeprefix("-")
        kind = LongNumberError if digits.isdecimal() and len(digits) > MAX_DIGITS else PivlError
        raise kind(
            f"{where} has the {what} {shown(text, 40)}, which is not an integer of at most"
            f" {MAX_DIGITS} digits; rename it, for example by numbering the {_PLURALS[what]} from"
            " 1."
        )
    return number

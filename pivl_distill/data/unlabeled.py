"""Crops without labels, for distillation: every image in a folder, at any depth."""

from __future__ import annotations

from pathlib import Path

from pivl_distill.data.listing import IMAGE_SUFFIXES, find_images
from pivl_distill.data.records import Record
from pivl_distill.errors import PivlError

PID = -1
"""The identity of a crop without a label."""


def list_unlabeled(folder: Path) -> list[Record]:
    """Return the images in `folder` in the order of their names.

    Raises PivlError without any, or if two cannot be told apart by name and size.
    """
    if not folder.is_dir():
        raise PivlError(f"No folder of unlabelled crops at {folder}; name one with --unlabeled.")
    paths = find_images(folder)
    if not paths:
        raise PivlError(f"{folder} contains no images ({', '.join(IMAGE_SUFFIXES)}).")
    records = [Record(path, PID, None) for path in paths]
    seen: dict[int, Path] = {}
    for record in records:
        if (other := seen.setdefault(record.digest, record.path)) != record.path:
            raise PivlError(
                f"{other} and {record.path} have the same name and size, by which crops are"
                " recognised; rename one of them."
            )
    return records

"""Crops without labels, for distillation: of a folder, or of a data set without its labels."""

from __future__ import annotations

from pathlib import Path

from pivl_distill.data.datasets import KINDS, load_dataset
from pivl_distill.data.listing import IMAGE_SUFFIXES, find_images
from pivl_distill.data.records import Record
from pivl_distill.data.searched import Searched
from pivl_distill.data.unused import find_unused, log_unused, report_unused
from pivl_distill.errors import PivlError

PID = -1
"""The identity of a crop without a label."""


def list_unlabeled(source: str) -> list[Record]:
    """Return the crops of a folder, at any depth, or of all splits of a data set (kind:argument).

    They are in the order of their paths. Raises PivlError without any, or if two cannot be told
    apart by name and size.
    """
    paths = _paths(source)
    if not paths:
        raise PivlError(f"{source} contains no images ({', '.join(IMAGE_SUFFIXES)}).")
    records = [Record(path, PID, None) for path in paths]
    seen: dict[int, Path] = {}
    for record in records:
        if (other := seen.setdefault(record.digest, record.path)) != record.path:
            raise PivlError(
                f"{other} and {record.path} have the same name and size, by which crops are"
                " recognised; rename one of them."
            )
    return records


def _paths(source: str) -> list[Path]:
    if source.partition(":")[0] in KINDS:
        dataset = load_dataset(source)
        report_unused(dataset, source)
        return sorted({record.path for split in dataset.splits.values() for record in split})
    if not Path(source).is_dir():
        raise PivlError(
            f"No folder of unlabelled crops at {source}; name one, or a data set as kind:argument,"
            " with --unlabeled."
        )
    paths = find_images(Path(source))
    log_unused(find_unused(Searched((Path(source),)), paths), source)
    return paths

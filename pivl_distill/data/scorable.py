"""Whether anything can be measured on a data set's query and gallery, from labels alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from pivl_distill.data.records import Record, ReIDDataset
from pivl_distill.errors import PivlError

TEST_SPLITS = ("query", "gallery")


def empty_test_splits(dataset: ReIDDataset) -> list[str]:
    """Return which of query and gallery have no images."""
    return [split for split in TEST_SPLITS if not dataset.splits[split]]


def unmatched_queries(dataset: ReIDDataset) -> list[Record]:
    """Return the queries whose person is not in the gallery under another camera.

    Where cameras are unknown, any image of the person in the gallery is a match.
    """
    gallery = cameras_by_pid(dataset.gallery)
    return [
        record
        for record in dataset.query
        if not any(camid is None or camid != record.camid for camid in gallery.get(record.pid, ()))
    ]


def cameras_by_pid(records: Iterable[Record]) -> dict[int, set[int | None]]:
    """Return identity → its camera ids."""
    cameras = defaultdict(set)
    for record in records:
        cameras[record.pid].add(record.camid)
    return dict(cameras)


def check_scorable(dataset: ReIDDataset, remedy: str) -> None:
    """Raise PivlError if not a single query can be scored; `remedy` ends the message.

    Args:
        dataset: its query and gallery.
        remedy: a sentence about what else the user can do.
    """
    if empty := empty_test_splits(dataset):
        raise PivlError(
            f"Nothing can be measured on {dataset.name} in {dataset.root}: its"
            f" {' and '.join(empty)} {'have' if len(empty) > 1 else 'has'} no images. {remedy}"
        )
    if len(unmatched_queries(dataset)) < len(dataset.query):
        return
    cameras = {record.camid for record in (*dataset.query, *dataset.gallery)}
    if dataset.has_cameras and len(cameras) == 1:
        reason = "all images of query and gallery are from one camera, so no query has a match"
    elif dataset.has_cameras:
        reason = "no query has its person in the gallery under another camera"
    else:
        reason = "no query has its person in the gallery"
    raise PivlError(
        f"Nothing can be measured on {dataset.name} in {dataset.root}: {reason}. {remedy}"
    )

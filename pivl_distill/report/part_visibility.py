"""Which parts a query shows, and which parts of its person it hides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pivl_distill.data.records import Record
from pivl_distill.report.blocks import LeftOutError
from pivl_distill.report.context import ReportContext

MIN_SHARE = 0.001
"""Share of a crop's pixels from which on a part counts as visible: 8 pixels of 128 × 64."""
MIN_QUERIES = 5
"""Queries that hide a part, below which nothing is said about it."""


@dataclass(frozen=True)
class PartVisibility:
    """Of each query with a part map: bool [Q, P] each.

    `hidden` parts are visible in another crop of the person. Rows of queries without a map are
    all False in both.
    """

    labels: tuple[str, ...]
    shown: np.ndarray
    hidden: np.ndarray


def part_visibility(context: ReportContext, size_hw: tuple[int, int]) -> PartVisibility:
    """Read the part maps of query and gallery; raise LeftOutError if queries have none."""
    dataset = context.dataset
    if dataset.vocabulary is None:
        raise LeftOutError("The data set has no part maps.")
    query, has_map = visible_parts(context, dataset.query, size_hw)
    if not has_map.any():
        raise LeftOutError("The queries have no part maps.")
    gallery, _ = visible_parts(context, dataset.gallery, size_hw)
    pids = np.array([record.pid for record in (*dataset.query, *dataset.gallery)])
    both = np.concatenate([query, gallery])
    worn = {pid: both[pids == pid].any(axis=0) for pid in np.unique(pids)}
    of_person = np.stack([worn[record.pid] for record in dataset.query])
    hidden = of_person & ~query & has_map[:, None]
    return PartVisibility(dataset.vocabulary.labels, query, hidden)


def visible_parts(
    context: ReportContext, records: Sequence[Record], size_hw: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Return which parts each of N records shows, bool [N, P], and which records have a map."""
    assert context.dataset.vocabulary is not None
    parts = len(context.dataset.vocabulary)
    visible, has_map = np.zeros((len(records), parts), bool), np.zeros(len(records), bool)
    for row, record in enumerate(records):
        part_map = context.part_map(record, size_hw)
        if part_map is not None:
            counts = np.bincount(part_map.ravel(), minlength=256)[:parts]
            visible[row], has_map[row] = counts >= MIN_SHARE * part_map.size, True
    return visible, has_map

"""Which crops, cells and parts of the test split are compared between networks.

All networks see the same crops. Cells are those of each network's own grid: a finer one has smaller
cells of more parts, which are harder to tell apart.
"""

from __future__ import annotations

import numpy as np

from pivl_distill.data.records import Record
from pivl_distill.report.blocks import LeftOutError
from pivl_distill.report.cell_features import Cells, embed_cells, sample_rows
from pivl_distill.report.context import ReportContext
from pivl_distill.report.opened import OpenedNetwork

PEOPLE, CROPS = 32, 6
"""People whose cells are compared, and crops of each."""
SHOWN_PEOPLE, SHOWN_CELLS, SHOWN_PARTS = 6, 600, 8
"""People, cells and parts in the pictures."""


def choose_crops(context: ReportContext, size_hw: tuple[int, int]) -> np.ndarray:
    """Return crops of at most `PEOPLE` people with part maps: int64, into query and gallery.

    Raises LeftOutError if the test split has no part maps.
    """
    records = _records(context)
    pids = np.array([record.pid for record in records])
    people = np.unique(pids[pids != -1])
    people = people[np.linspace(0, len(people) - 1, min(PEOPLE, len(people))).astype(int)]
    chosen = [
        position
        for person in people
        for position in np.flatnonzero(pids == person)[:CROPS]
        if context.part_map(records[position], size_hw) is not None
    ]
    if not chosen:
        raise LeftOutError("The test split has no part maps.")
    return np.array(chosen)


def cells_of(context: ReportContext, network: OpenedNetwork, positions: np.ndarray) -> Cells:
    """Return the cells of these crops of query and gallery, as one network sees them."""
    test, vocabulary = network.scored.evaluation.test, context.dataset.vocabulary
    first, crops = len(test.query), []
    for position in positions:
        store, row = (
            (test.query, position) if position < first else (test.gallery, position - first)
        )
        crops.append(store.crops[row])
    assert vocabulary is not None  # else there would be no part maps
    pids = np.array([record.pid for record in _records(context)])[positions]
    part_maps = _part_maps(context, positions, network.model.size_hw)
    return embed_cells(network.model, network.layer, np.stack(crops), part_maps, pids, vocabulary)


def choose_parts(
    context: ReportContext, positions: np.ndarray, size_hw: tuple[int, int]
) -> list[int]:
    """Return the parts of the pictures: the most frequent of these crops, by pixels."""
    vocabulary = context.dataset.vocabulary
    assert vocabulary is not None
    labels = np.stack(_part_maps(context, positions, size_hw))
    counts = np.bincount(labels.ravel(), minlength=256)[: len(vocabulary)]
    counts[vocabulary.background] = 0
    order = np.argsort(-counts, kind="stable")[:SHOWN_PARTS]
    return [int(part) for part in order if counts[part]]


def shown_cells(cells: Cells, parts: list[int]) -> Cells:
    """Return the cells of the pictures: of few people and of these parts."""
    people = np.unique(cells.pids)[:SHOWN_PEOPLE]
    few = cells.select(np.isin(cells.pids, people) & np.isin(cells.parts, parts))
    return few.select(sample_rows(few.parts, SHOWN_CELLS))


def _records(context: ReportContext) -> tuple[Record, ...]:
    return (*context.dataset.query, *context.dataset.gallery)


def _part_maps(
    context: ReportContext, positions: np.ndarray, size_hw: tuple[int, int]
) -> list[np.ndarray]:
    records = _records(context)
    found = (context.part_map(records[position], size_hw) for position in positions)
    return [part_map for part_map in found if part_map is not None]

"""How many similarities of a row lie above a bound, and which lie between two.

Comparing a row with a few bounds costs little beside the matrix product that made the row: about a
sixth for 36 bounds and 1,280 dimensions on a CPU (`docs/retrieval.md`), whatever the values are.
NumPy compares and adds several times faster there than torch, which a GPU needs.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from pivl_distill.retrieval.similarity import blocks

_LANES, _LANE_MAX = 8, 255
_COLUMNS, _BOUNDS = 8 * _LANES * _LANE_MAX, 64
"""Compared at a time on the CPU, so that the comparisons stay in the cache."""

_DEVICE_BYTES = 2**28
"""Of comparisons at a time on a GPU."""


def count_above(similarity: Tensor, bounds: Tensor) -> Tensor:
    """How many of float32 [n, G] are greater than each of float32 [n, N]: int64 [n, N]."""
    if similarity.device.type != "cpu":
        return count_above_on_device(similarity, bounds)
    return torch.from_numpy(_count_above_on_host(similarity.numpy(), bounds.numpy()))


def find_between(
    similarity: Tensor, rows: Tensor, low: Tensor, high: Tensor
) -> tuple[Tensor, Tensor]:
    """Which of `similarity` [n, G] at `rows` [k] are in (low, high], each [k].

    As positions in `rows` and columns of `similarity`: int64 [·] each.
    """
    if similarity.device.type != "cpu":
        return find_between_on_device(similarity, rows, low, high)
    values, items, columns = similarity.numpy(), [], []
    for item, (row, above, most) in enumerate(
        zip(rows.tolist(), low.numpy(), high.numpy(), strict=True)
    ):
        found = np.flatnonzero((values[row] > above) ^ (values[row] > most))
        items.append(np.full_like(found, item))
        columns.append(found)
    nothing = np.empty(0, np.int64)
    return (
        torch.from_numpy(np.concatenate([nothing, *items])),
        torch.from_numpy(np.concatenate([nothing, *columns])),
    )


def _count_above_on_host(similarity: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """A row at a time, whose comparisons stay in the cache.

    Comparisons are bytes of 0 or 1. They are added as 64-bit words, eight at a time: each byte of
    a sum is a counter of its own, good for 255 words.
    """
    counts = np.zeros(bounds.shape, np.int64)
    step = _LANES * _LANE_MAX
    width = min(-(-similarity.shape[1] // step) * step, _COLUMNS)

    def count(rows: slice) -> None:
        mask = np.zeros((min(bounds.shape[1], _BOUNDS), width), bool)
        for some in blocks(bounds.shape[1], _BOUNDS):
            for columns in blocks(similarity.shape[1], width):
                part, limits = similarity[rows, columns], bounds[rows, some, None]
                used = mask[: limits.shape[1]]
                used[:, part.shape[1] :] = False
                words = used.view(np.int64).reshape(len(used), -1, _LANE_MAX)
                lanes = np.empty((len(part), *words.shape[:2]), np.int64)
                for number in range(len(part)):
                    np.greater(part[number], limits[number], out=used[:, : part.shape[1]])
                    np.add.reduce(words, axis=2, out=lanes[number])
                counts[rows, some] += lanes.view(np.uint8).sum(axis=2, dtype=np.int64)

    threads = torch.get_num_threads()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(count, blocks(len(bounds), -(-len(bounds) // threads))))
    return counts


def count_above_on_device(
    similarity: Tensor, bounds: Tensor, at_a_time_bytes: int = _DEVICE_BYTES
) -> Tensor:
    """`count_above` in few large steps, as a GPU wants it."""
    counts = torch.zeros_like(bounds, dtype=torch.int64)
    for columns in blocks(similarity.shape[1], max(at_a_time_bytes // bounds.numel(), 1)):
        counts += (similarity[:, None, columns] > bounds[:, :, None]).sum(dim=2)
    return counts


def find_between_on_device(
    similarity: Tensor,
    rows: Tensor,
    low: Tensor,
    high: Tensor,
    at_a_time_bytes: int = _DEVICE_BYTES,
) -> tuple[Tensor, Tensor]:
    """`find_between` in few large steps."""
    found = [rows.new_empty(2, 0)]
    for some in blocks(len(rows), max(at_a_time_bytes // (8 * similarity.shape[1]), 1)):
        values = similarity[rows[some]]
        between = (values > low[some, None]) & (values <= high[some, None])
        item, column = between.nonzero(as_tuple=True)
        found.append(torch.stack([item + some.start, column]))
    items, columns = torch.cat(found, dim=1)
    return items, columns

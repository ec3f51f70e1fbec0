"""How many similarities of a row lie above a bound, and which lie between two.

On a CPU a row is sieved first: what is not above its lowest bound is above none, and for a network
that tells people apart that is nearly all of the row. The few that are left are sorted by value,
which says at once how many lie above each bound. NumPy does both several times faster than torch,
which a GPU needs.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from pivl_distill.retrieval.similarity import blocks

_ROWS = 32
"""Sieved at a time on the CPU: few, so that they stay in the cache."""

_FEW = 0.25
"""A larger share of some rows is sorted where it is, instead of being put together first."""

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
    counts = np.empty(bounds.shape, np.int64)

    def count(rows: slice) -> None:
        left = _sieve(similarity[rows], bounds[rows].min(axis=1))
        left.sort(axis=1)
        for number, values, limits in zip(
            range(rows.start, rows.stop), left, bounds[rows], strict=True
        ):
            counts[number] = len(values) - np.searchsorted(values, limits, side="right")

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        list(pool.map(count, blocks(len(bounds), _ROWS)))
    return counts


def _sieve(similarity: np.ndarray, lowest: np.ndarray) -> np.ndarray:
    """A copy of [r, G] with what is above `lowest` [r] of its row, filled up with -inf."""
    above = similarity > lowest[:, None]
    if np.count_nonzero(above) > _FEW * above.size:
        return similarity.copy()
    rows, columns = similarity.shape
    place = np.flatnonzero(above)
    start = np.searchsorted(place, columns * np.arange(rows + 1))
    kept = np.diff(start)
    left = np.full((rows, kept.max(initial=0)), -np.inf, similarity.dtype)
    left[np.arange(left.shape[1]) < kept[:, None]] = similarity.reshape(-1)[place]
    return left


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

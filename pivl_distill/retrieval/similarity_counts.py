"""How many similarities of a row lie above a bound, and which lie between two.

Similarities come as a matrix product [n, G] and what its columns are multiplied with, `scale` [G].
On a CPU a few rows at a time are scaled and sieved while they are in the cache: what is not above
the lowest bound of its row is above none, and for a network that tells people apart that is nearly
all of it. Where it is not, values are thrown into buckets, and only buckets with a bound in them
stay open. The few values that are left are sorted, which says at once how many lie above each
bound. NumPy does this several times faster than torch, which a GPU needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from pivl_distill.retrieval.similarity import blocks

_ROWS = 16
"""Sieved at a time on the CPU: few, so that they stay in the cache."""

_FEW = 0.05
"""A larger share of values that are left is sieved by buckets instead."""

_BUCKETS = 8192
"""From −1 to 1, for each row."""

_DEVICE_BYTES = 2**28
"""Of comparisons at a time on a GPU."""


def count_above(product: Tensor, scale: Tensor, bounds: Tensor) -> Tensor:
    """How many of product · scale [n, G] are greater than each of bounds [n, N]: int64 [n, N].

    All float32.
    """
    if product.device.type != "cpu":
        return count_above_on_device(product, scale, bounds)
    counts = np.empty(bounds.shape, np.int64)
    arrays = product.numpy(), scale.numpy(), bounds.numpy()
    some, threads = list(blocks(len(counts), _ROWS)), torch.get_num_threads()
    with ThreadPoolExecutor(threads) as pool:
        shares = (some[number::threads] for number in range(threads))
        list(pool.map(lambda share: _count_blocks(*arrays, share, counts), shares))
    return torch.from_numpy(counts)


def find_between(
    product: Tensor, scale: Tensor, rows: Tensor, low: Tensor, high: Tensor
) -> tuple[Tensor, Tensor]:
    """Which of product · scale [n, G] at `rows` [k] are in (low, high], each [k].

    As positions in `rows` and columns: int64 [·] each.
    """
    if product.device.type != "cpu":
        return find_between_on_device(product, scale, rows, low, high)
    items, columns, at = [], [], -1
    of_row, factors = product.numpy(), scale.numpy()
    values = np.empty(len(factors), np.float32)
    for item, (row, above, most) in enumerate(
        zip(rows.tolist(), low.numpy(), high.numpy(), strict=True)
    ):
        if row != at:
            np.multiply(of_row[row], factors, out=values)
            at = row
        found = np.flatnonzero((values > above) ^ (values > most))
        items.append(np.full_like(found, item))
        columns.append(found)
    nothing = np.empty(0, np.int64)
    return (
        torch.from_numpy(np.concatenate([nothing, *items])),
        torch.from_numpy(np.concatenate([nothing, *columns])),
    )


def _count_blocks(
    product: np.ndarray,
    scale: np.ndarray,
    bounds: np.ndarray,
    share: Sequence[slice],
    counts: np.ndarray,
) -> None:
    """Fill in the rows of `counts` [n, N] that are in a thread's `share` of all blocks."""
    values = np.empty((_ROWS, len(scale)), np.float32)
    above = np.empty(values.shape, bool)
    for rows in share:
        number = rows.stop - rows.start
        block, limits = values[:number], bounds[rows]
        np.multiply(product[rows], scale, out=block)
        np.greater(block, limits.min(axis=1, keepdims=True), out=above[:number])
        place, sure = np.flatnonzero(above[:number]), None
        if len(place) > _FEW * block.size:
            place, sure = _in_open_buckets(block, limits)
        counts[rows] = _count_left(block, place, limits)
        if sure is not None:
            counts[rows] += sure


def _in_open_buckets(block: np.ndarray, bounds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which values [k] of a block [r, G] share a bucket with a bound [r, N] of their row.

    And how many of the others are above each bound [r, N], as their buckets are.
    """
    bucket, of_bound = _buckets(block), _buckets(bounds)
    is_open = np.zeros(len(block) * _BUCKETS, bool)
    is_open[of_bound] = True
    count = np.bincount(bucket.reshape(-1), minlength=len(is_open))
    count[is_open] = 0
    up_to = count.reshape(len(block), _BUCKETS).cumsum(axis=1)
    above = up_to[:, -1:] - up_to.reshape(-1)[of_bound]
    return np.flatnonzero(is_open.take(bucket)), above


def _buckets(values: np.ndarray) -> np.ndarray:
    """int64 [r, k], those of each row after those of the row before; a larger value of float32
    [r, k] is never in a lower one."""
    first = np.arange(0, len(values) * _BUCKETS, _BUCKETS, dtype=np.float32)[:, None]
    placed: np.ndarray = values.clip(-1, 1)
    placed += 1
    placed *= (_BUCKETS - 1) / 2
    placed += first
    return placed.astype(np.int32).astype(np.int64)  # twice as fast as at once


def _count_left(block: np.ndarray, place: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """Counts [r, N] for a block of r rows, of which only what lies at `place` [k] counts."""
    rows, columns = block.shape
    left = np.sort(_keys(place // columns, block.reshape(-1)[place]))
    end = np.searchsorted(place, columns * np.arange(1, rows + 1))  # of each row among those left
    sought = _keys(np.arange(rows)[:, None], bounds)
    return end[:, None] - np.searchsorted(left, sought, side="right")


def _keys(row: np.ndarray, values: np.ndarray) -> np.ndarray:
    """int64 in the order of rows, and within a row in that of float32 values.

    The bits of a float, read as an integer, grow with it; those of negative ones fall.
    """
    bits = (values + np.float32(0)).view(np.int32)  # −0 is 0
    return (row.astype(np.int64) << 32) + (bits ^ ((bits >> 31) & 0x7FFF_FFFF))


def count_above_on_device(
    product: Tensor, scale: Tensor, bounds: Tensor, at_a_time_bytes: int = _DEVICE_BYTES
) -> Tensor:
    """`count_above` in few large steps, as a GPU wants it."""
    counts = torch.zeros_like(bounds, dtype=torch.int64)
    for columns in blocks(len(scale), max(at_a_time_bytes // bounds.numel(), 1)):
        values = product[:, columns] * scale[columns]
        counts += (values[:, None] > bounds[:, :, None]).sum(dim=2)
    return counts


def find_between_on_device(
    product: Tensor,
    scale: Tensor,
    rows: Tensor,
    low: Tensor,
    high: Tensor,
    at_a_time_bytes: int = _DEVICE_BYTES,
) -> tuple[Tensor, Tensor]:
    """`find_between` in few large steps."""
    found = [rows.new_empty(2, 0)]
    for some in blocks(len(rows), max(at_a_time_bytes // (8 * len(scale)), 1)):
        values = product[rows[some]] * scale
        between = (values > low[some, None]) & (values <= high[some, None])
        item, column = between.nonzero(as_tuple=True)
        found.append(torch.stack([item + some.start, column]))
    items, columns = torch.cat(found, dim=1)
    return items, columns

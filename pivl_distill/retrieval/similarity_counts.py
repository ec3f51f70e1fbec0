"""Count the similarities of a row above each bound, and find those between two bounds.

Similarities are a matrix product [n, G] times a scale per column [G].

On a CPU a few rows at a time are scaled and filtered while they are in the cache. Values not above
the lowest bound of their row are above no bound; for a discriminative network these are nearly all.
If many values remain, they are put into buckets, and only the buckets that contain a bound are
examined further. The remaining values are sorted, which yields the counts of all bounds at once.
NumPy does this several times faster than torch; a GPU uses torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from pivl_distill.retrieval.similarity import blocks

_ROWS = 16
"""Rows per step on the CPU: few, so that they stay in the cache."""

_DENSE = 0.05
"""If a larger share of values remains after the first filter, buckets are used."""

_BUCKETS = 8192
"""Buckets per row, from −1 to 1."""

_DEVICE_BYTES = 2**28
"""Memory of comparisons per step on a GPU."""


def count_above(product: Tensor, scale: Tensor, bounds: Tensor) -> Tensor:
    """Count the values of product · scale [n, G] above each bound [n, N]: int64 [n, N].

    Inputs are float32: `product` [n, G], `scale` [G], `bounds` [n, N].
    """
    if product.device.type != "cpu":
        return count_above_on_device(product, scale, bounds)
    counts = np.empty(bounds.shape, np.int64)
    arrays = product.numpy(), scale.numpy(), bounds.numpy()
    row_blocks, threads = list(blocks(len(counts), _ROWS)), torch.get_num_threads()
    with ThreadPoolExecutor(threads) as pool:
        shares = (row_blocks[number::threads] for number in range(threads))
        list(pool.map(lambda share: _count_blocks(*arrays, share, counts), shares))
    return torch.from_numpy(counts)


def find_between(
    product: Tensor, scale: Tensor, rows: Tensor, low: Tensor, high: Tensor
) -> tuple[Tensor, Tensor]:
    """Find the values of product · scale in (low, high], for k searches of one row each.

    Args:
        product: float32 [n, G].
        scale: float32 [G], factor of each column.
        rows: int64 [k], row of each search; searches of one row should be adjacent.
        low: float32 [k], exclusive lower bound of each search.
        high: float32 [k], inclusive upper bound of each search.

    Returns:
        For each value found, its search (0 to k − 1) and its column: int64 [E] each.
    """
    if product.device.type != "cpu":
        return find_between_on_device(product, scale, rows, low, high)
    items, columns, current_row = [], [], -1
    products, factors = product.numpy(), scale.numpy()
    values = np.empty(len(factors), np.float32)
    for item, (row, lower, upper) in enumerate(
        zip(rows.tolist(), low.numpy(), high.numpy(), strict=True)
    ):
        if row != current_row:
            np.multiply(products[row], factors, out=values)
            current_row = row
        found = np.flatnonzero((values > lower) ^ (values > upper))
        items.append(np.full_like(found, item))
        columns.append(found)
    empty = np.empty(0, np.int64)
    return (
        torch.from_numpy(np.concatenate([empty, *items])),
        torch.from_numpy(np.concatenate([empty, *columns])),
    )


def _count_blocks(
    product: np.ndarray,
    scale: np.ndarray,
    bounds: np.ndarray,
    share: Sequence[slice],
    counts: np.ndarray,
) -> None:
    """Fill in the rows of `counts` [n, N] in one thread's `share` of the row blocks."""
    values = np.empty((_ROWS, len(scale)), np.float32)
    above = np.empty(values.shape, bool)
    for rows in share:
        number = rows.stop - rows.start
        block, limits = values[:number], bounds[rows]
        np.multiply(product[rows], scale, out=block)
        np.greater(block, limits.min(axis=1, keepdims=True), out=above[:number])
        undecided, decided = np.flatnonzero(above[:number]), None
        if len(undecided) > _DENSE * block.size:
            undecided, decided = _count_by_buckets(block, limits)
        counts[rows] = _count_by_sorting(block, undecided, limits)
        if decided is not None:
            counts[rows] += decided


def _count_by_buckets(block: np.ndarray, bounds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compare values [r, G] with bounds [r, N] by bucket.

    Returns the flat positions [k] of values that share a bucket with a bound, which are undecided,
    and the counts [r, N] of the other values above each bound.
    """
    bucket, bound_bucket = _buckets(block), _buckets(bounds)
    has_bound = np.zeros(len(block) * _BUCKETS, bool)
    has_bound[bound_bucket] = True
    count = np.bincount(bucket.reshape(-1), minlength=len(has_bound))
    count[has_bound] = 0
    cumulative = count.reshape(len(block), _BUCKETS).cumsum(axis=1)
    above = cumulative[:, -1:] - cumulative.reshape(-1)[bound_bucket]
    return np.flatnonzero(has_bound.take(bucket)), above


def _buckets(values: np.ndarray) -> np.ndarray:
    """Return the bucket of each float32 value [r, k]: int64, `_BUCKETS` per row.

    Buckets are monotonic: a larger value of a row is never in a lower bucket.
    """
    first = np.arange(0, len(values) * _BUCKETS, _BUCKETS, dtype=np.float32)[:, None]
    position: np.ndarray = values.clip(-1, 1)
    position += 1
    position *= (_BUCKETS - 1) / 2
    position += first
    return position.astype(np.int32).astype(np.int64)  # twice as fast as directly to int64


def _count_by_sorting(block: np.ndarray, positions: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """Count the values at flat `positions` [k] of a block [r, G] above each bound: [r, N]."""
    rows, columns = block.shape
    ordered = np.sort(_sort_keys(positions // columns, block.reshape(-1)[positions]))
    row_end = np.searchsorted(positions, columns * np.arange(1, rows + 1))
    bound_keys = _sort_keys(np.arange(rows)[:, None], bounds)
    return row_end[:, None] - np.searchsorted(ordered, bound_keys, side="right")


def _sort_keys(row: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return int64 keys that sort by row, then by float32 value.

    The bits of a positive float, read as an integer, increase with it; those of a negative float
    decrease, so they are inverted.
    """
    bits = (values + np.float32(0)).view(np.int32)  # turns −0 into 0
    return (row.astype(np.int64) << 32) + (bits ^ ((bits >> 31) & 0x7FFF_FFFF))


def count_above_on_device(
    product: Tensor, scale: Tensor, bounds: Tensor, step_bytes: int = _DEVICE_BYTES
) -> Tensor:
    """Count like `count_above`, in few large steps, as suits a GPU."""
    counts = torch.zeros_like(bounds, dtype=torch.int64)
    for columns in blocks(len(scale), max(step_bytes // bounds.numel(), 1)):
        values = product[:, columns] * scale[columns]
        counts += (values[:, None] > bounds[:, :, None]).sum(dim=2)
    return counts


def find_between_on_device(
    product: Tensor,
    scale: Tensor,
    rows: Tensor,
    low: Tensor,
    high: Tensor,
    step_bytes: int = _DEVICE_BYTES,
) -> tuple[Tensor, Tensor]:
    """Find like `find_between`, in few large steps, as suits a GPU.

    Args:
        product: as in `find_between`.
        scale: as in `find_between`.
        rows: as in `find_between`.
        low: as in `find_between`.
        high: as in `find_between`.
        step_bytes: memory of comparisons per step.
    """
    found = [rows.new_empty(2, 0)]
    for some in blocks(len(rows), max(step_bytes // (8 * len(scale)), 1)):
        values = product[rows[some]] * scale
        between = (values > low[some, None]) & (values <= high[some, None])
        item, column = between.nonzero(as_tuple=True)
        found.append(torch.stack([item + some.start, column]))
    items, columns = torch.cat(found, dim=1)
    return items, columns

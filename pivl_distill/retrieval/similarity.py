"""Cosine similarity twice: in float32 for whole galleries, in float64 for single pairs.

A float32 matrix product is fast, and its last digits depend on the device, the library and the
place of a row in the matrix. Single pairs in float64 are slow and depend on nothing. Retrieval
sieves by the product and lets single pairs decide what it leaves open.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pivl_distill.errors import PivlError

Features = np.ndarray | Tensor
"""[N, F] of any float type; arrays may be mapped from disk, tensors may be on any device."""

TIE_DECIMALS = 12
"""Exact similarities equal to so many decimals are ties: float64 sums differ by 1e-16 between
vectors of one direction and two lengths, and features are float32 anyway."""

TOLERATED_ERRORS = 4
"""Both sides of a comparison err, each by up to about twice the largest error of a small sample."""

_LEAST_ERROR = 2.0**-25
"""Of a sum of products of unit vectors: half a unit in the last place of a number near 1. It does
not become less where the sum is near 0."""

MEMORY_BYTES = 2**28
"""Of similarities at a time, by default."""

CHUNK_ROWS = 2048
"""At most; a matrix product gains nothing from more, and fresh memory takes its time."""

_BLOCK_ROWS = 512
"""At a time: few, for the processor's cache, but not so few that threads mostly wait."""

_GALLERY_ROWS = 4096

_ALIGNED = 16
"""Numbers in 64 bytes."""

_SAFE_LENGTHS = (1e-15, 1e15)
"""Within these the squares of a float32 vector neither vanish nor overflow."""


@dataclass(frozen=True)
class UnitFeatures:
    """Features and their lengths, which together are directions; a zero row is unlike everything.

    float32 features are used where they lie, so that a large gallery is in memory once.
    """

    raw: Features
    floats: Tensor  # float32 [N, F], the features or multiples of them
    scale: Tensor  # float32 [N], what makes a row of `floats` one of length one

    @classmethod
    def from_raw(cls, raw: Features, name: str) -> UnitFeatures:
        """Raises PivlError, which calls the features `name`, if they are not finite."""
        floats = _as_float32(raw)
        copied = floats is None
        if floats is None:
            floats = torch.empty(tuple(raw.shape), device=_rows(raw, slice(0)).device)
            for rows in blocks(len(raw), _BLOCK_ROWS):
                floats[rows] = _rows(raw, rows)
        lengths = torch.linalg.vector_norm(floats, dim=1)
        low, high = _SAFE_LENGTHS
        unsafe = (~((lengths > low) & (lengths < high))).nonzero().flatten()
        if len(unsafe) and not copied:
            floats = floats.clone()
        for some in unsafe.split(_BLOCK_ROWS):
            exact = _rows(raw, some).double()
            if not exact.isfinite().all():
                raise _not_finite(raw, name)
            floats[some], lengths[some] = _directions(exact).float(), 1
        return cls(raw, floats, 1 / lengths)

    def __len__(self) -> int:
        return len(self.floats)

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return self.floats.device

    def unit(self, rows: Tensor | slice = slice(None)) -> Tensor:
        """Rows of length one in float32 [n, F]."""
        return self.floats[rows] * self.scale[rows, None]

    def exact(self, rows: Tensor | slice) -> Tensor:
        """Rows of length one in float64 [n, F]."""
        return _directions(_rows(self.raw, rows).double())


def exact_pairs(
    query: UnitFeatures, gallery: UnitFeatures, rows: Tensor, columns: Tensor
) -> Tensor:
    """float64 [n] of the pairs (query `rows`, gallery `columns`), each computed by itself."""
    result = torch.empty(len(rows), dtype=torch.float64, device=rows.device)
    for pairs in blocks(len(rows), _BLOCK_ROWS):
        ours = _rows(query.raw, rows[pairs]).double()
        theirs = _rows(gallery.raw, columns[pairs]).double()
        lengths = _lengths(ours) * _lengths(theirs)
        result[pairs] = torch.linalg.vecdot(ours, theirs) / lengths
    return result.round(decimals=TIE_DECIMALS)


def exact_rows(query: UnitFeatures, gallery: UnitFeatures, rows: Tensor | slice) -> Tensor:
    """float64 [n, G] of the query `rows` and the whole gallery."""
    directions = query.exact(rows)
    result = directions.new_empty(len(directions), len(gallery))
    for part in blocks(len(gallery), _GALLERY_ROWS):
        result[:, part] = directions @ gallery.exact(part).T
    return result.round_(decimals=TIE_DECIMALS)


def empty_product(rows: int, columns: int, device: torch.device) -> Tensor:
    """float32 [rows, columns] for a matrix product to write, each row from a multiple of 64 bytes.

    MKL on an AMD processor takes half as long again for rows that begin elsewhere.
    """
    padded = -(-columns // _ALIGNED) * _ALIGNED
    return torch.empty(rows, padded, device=device)[:, :columns]


def float32_tolerance(product: Tensor, exact: Tensor) -> float:
    """How close two float32 similarities must be for their order to be in doubt.

    Told from a sample of the product and the exact similarities of the same pairs.
    """
    return TOLERATED_ERRORS * max(float((product - exact).abs().max()), _LEAST_ERROR)


def chunk_rows(memory_bytes: int, row_bytes: int) -> int:
    """How many rows of a product fit, at least one."""
    return min(max(memory_bytes // row_bytes, 1), CHUNK_ROWS)


def blocks(count: int, size: int) -> Iterator[slice]:
    """Slices of at most `size` that cover `range(count)`."""
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


def _as_float32(raw: Features) -> Tensor | None:
    """The features themselves as a tensor; None where they are of another type or read-only."""
    if isinstance(raw, Tensor):
        return raw if raw.dtype == torch.float32 else None
    return torch.from_numpy(raw) if raw.dtype == np.float32 and raw.flags.writeable else None


def _rows(raw: Features, rows: Tensor | slice) -> Tensor:
    if isinstance(raw, Tensor):
        return raw[rows]
    found = raw[rows.numpy() if isinstance(rows, Tensor) else rows]
    return torch.from_numpy(found if found.flags.writeable else found.copy())


def _directions(vectors: Tensor) -> Tensor:
    return vectors / _lengths(vectors)[:, None]


def _lengths(vectors: Tensor) -> Tensor:
    """[n] of [n, F]; 1 for a row of zeros, which has no direction."""
    lengths: Tensor = torch.linalg.vector_norm(vectors, dim=1)
    return lengths.masked_fill_(lengths == 0, 1)


def _not_finite(raw: Features, name: str) -> PivlError:
    finite = [_rows(raw, rows).isfinite().all(dim=1) for rows in blocks(len(raw), _BLOCK_ROWS)]
    broken = (~torch.cat(finite)).nonzero().flatten()
    return PivlError(
        f"{len(broken)} of {len(raw)} {name} features are not finite (first: row {int(broken[0])})."
        " The network diverged or overflowed in low precision."
    )

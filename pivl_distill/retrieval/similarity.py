"""Cosine similarity: float32 for whole galleries, float64 for single pairs.

A float32 matrix product is fast, but its last digits depend on the device, the library and the
position of a row in the matrix. Single pairs in float64 are slow but reproducible. Retrieval
filters by the product and decides the remaining pairs in float64.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pivl_distill.errors import PivlError

Features = np.ndarray | Tensor
"""[N, F] of any float type. Arrays may be memory-mapped; tensors may be on any device."""

TIE_DECIMALS = 12
"""float64 similarities that agree to this many decimals are ties. Vectors of equal direction and
different length differ by 1e-16, far less than float32 features can resolve."""

TOLERATED_ERRORS = 4
"""Both sides of a comparison have an error of up to about twice the largest of a small sample."""

_LEAST_ERROR = 2.0**-25
"""Lower bound of the error of a float32 product of unit vectors: half a unit in the last place of a
number near 1. A product near 0 is no more accurate."""

MEMORY_BYTES = 2**28
"""Default memory of similarities per chunk."""

CHUNK_ROWS = 2048
"""Most rows per chunk: a matrix product gains nothing from more, and fresh memory costs time."""

_BLOCK_ROWS = 512
"""Rows per step: few enough for the processor's cache, enough to keep all threads busy."""

_GALLERY_ROWS = 4096
"""Gallery rows per step in float64."""

_ALIGNED = 16
"""float32 numbers in 64 bytes."""

_SAFE_LENGTHS = (1e-15, 1e15)
"""Range of lengths whose squares neither underflow nor overflow in float32."""


@dataclass(frozen=True)
class UnitFeatures:
    """Features and the scales that normalise them; a zero row has similarity 0 to everything.

    float32 features are not copied, so a large gallery is in memory once.
    """

    raw: Features
    floats: Tensor  # float32 [N, F], the features or multiples of them
    scale: Tensor  # float32 [N], factors that give rows of `floats` length one

    @classmethod
    def from_raw(cls, raw: Features, name: str) -> UnitFeatures:
        """Measure lengths; raise PivlError, which mentions `name`, if features are not finite."""
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
            floats[some], lengths[some] = _normalised(exact).float(), 1
        return cls(raw, floats, 1 / lengths)

    def __len__(self) -> int:
        return len(self.floats)

    @property
    def device(self) -> torch.device:
        """Device of the features."""
        return self.floats.device

    def unit(self, rows: Tensor | slice = slice(None)) -> Tensor:
        """Return rows of length one, float32 [n, F]."""
        return self.floats[rows] * self.scale[rows, None]

    def exact(self, rows: Tensor | slice) -> Tensor:
        """Return rows of length one, float64 [n, F]."""
        return _normalised(_rows(self.raw, rows).double())


def exact_pairs(
    query: UnitFeatures, gallery: UnitFeatures, rows: Tensor, columns: Tensor
) -> Tensor:
    """Return the float64 similarities [n] of pairs (query `rows` [n], gallery `columns` [n])."""
    result = torch.empty(len(rows), dtype=torch.float64, device=rows.device)
    for pairs in blocks(len(rows), _BLOCK_ROWS):
        ours = _rows(query.raw, rows[pairs]).double()
        theirs = _rows(gallery.raw, columns[pairs]).double()
        lengths = _lengths(ours) * _lengths(theirs)
        result[pairs] = torch.linalg.vecdot(ours, theirs) / lengths
    return result.round(decimals=TIE_DECIMALS)


def exact_rows(query: UnitFeatures, gallery: UnitFeatures, rows: Tensor | slice) -> Tensor:
    """Return the float64 similarities [n, G] of query `rows` and the whole gallery."""
    unit = query.exact(rows)
    result = unit.new_empty(len(unit), len(gallery))
    for part in blocks(len(gallery), _GALLERY_ROWS):
        result[:, part] = unit @ gallery.exact(part).T
    return result.round_(decimals=TIE_DECIMALS)


def empty_product(rows: int, columns: int, device: torch.device) -> Tensor:
    """Allocate float32 [rows, columns] for a matrix product, with rows aligned to 64 bytes.

    MKL on AMD processors needs 1.5 times as long for rows that are not aligned.
    """
    padded = -(-columns // _ALIGNED) * _ALIGNED
    return torch.empty(rows, padded, device=device)[:, :columns]


def float32_tolerance(product: Tensor, exact: Tensor) -> float:
    """Return the difference up to which the order of two float32 similarities is uncertain.

    Estimated from a sample: `product` float32 [n] and `exact` float64 [n] of the same pairs.
    """
    return TOLERATED_ERRORS * max(float((product - exact).abs().max()), _LEAST_ERROR)


def chunk_rows(memory_bytes: int, row_bytes: int) -> int:
    """Return how many rows of `row_bytes` fit in `memory_bytes`: 1 to CHUNK_ROWS."""
    return min(max(memory_bytes // row_bytes, 1), CHUNK_ROWS)


def blocks(count: int, size: int) -> Iterator[slice]:
    """Yield slices of at most `size` that cover `range(count)`."""
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


def _as_float32(raw: Features) -> Tensor | None:
    """Return the features as a tensor without a copy, or None if not float32 or read-only."""
    if isinstance(raw, Tensor):
        return raw if raw.dtype == torch.float32 else None
    return torch.from_numpy(raw) if raw.dtype == np.float32 and raw.flags.writeable else None


def _rows(raw: Features, rows: Tensor | slice) -> Tensor:
    if isinstance(raw, Tensor):
        return raw[rows]
    found = raw[rows.numpy() if isinstance(rows, Tensor) else rows]
    return torch.from_numpy(found if found.flags.writeable else found.copy())


def _normalised(vectors: Tensor) -> Tensor:
    return vectors / _lengths(vectors)[:, None]


def _lengths(vectors: Tensor) -> Tensor:
    """Return the lengths [n] of vectors [n, F]; 1 for a zero vector, to divide by."""
    lengths: Tensor = torch.linalg.vector_norm(vectors, dim=1)
    return lengths.masked_fill_(lengths == 0, 1)


def _not_finite(raw: Features, name: str) -> PivlError:
    finite = [_rows(raw, rows).isfinite().all(dim=1) for rows in blocks(len(raw), _BLOCK_ROWS)]
    broken = (~torch.cat(finite)).nonzero().flatten()
    return PivlError(
        f"{len(broken)} of {len(raw)} {name} features are not finite (first: row {int(broken[0])})."
        " The network diverged or overflowed in low precision."
    )

"""The output of a fusion head: the map F of Eq. 10, dense or as the factors of its last layer."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class FusedMap:
    """F of Eq. 10, [B, D, h, w], as `weight` · cells + `bias` at every cell.

    With C < D, inner products of F are cheaper in C channels than in D dimensions:
    F·t = x·(Wᵀt) + b·t and |F|² = xᵀ(WᵀW)x + 2·(Wᵀb)·x + |b|².
    """

    cells: Tensor
    """[B, C, h, w]; F itself, with C = D, where `weight` is None."""
    weight: Tensor | None = None
    """[D, C], or None for a dense map."""
    bias: Tensor | None = None
    """[D]; given exactly when `weight` is."""

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(B, D, h, w)."""
        batch, channels, rows, columns = self.cells.shape
        return batch, channels if self.weight is None else len(self.weight), rows, columns

    def to_dense(self) -> Tensor:
        """Return F, [B, D, h, w]."""
        if self.weight is None:
            return self.cells
        return F.conv2d(self.cells, self.weight[:, :, None, None], self.bias)

    def gather(self, image: Tensor, row: Tensor, column: Tensor) -> Tensor:
        """Return F at S cells, [S, D]; the indices are int64 [S]."""
        cells = self.cells[image, :, row, column]
        return cells if self.weight is None else F.linear(cells, self.weight, self.bias)

    def inner_products(self, text_features: Tensor) -> Tensor:
        """Multiply every cell with P text features of its image: [B, P, D] → [B, P, h, w]."""
        cells = self.cells.flatten(2)  # [B, C, h·w]
        if self.weight is None or self.bias is None:
            products = text_features @ cells
        else:
            products = (text_features @ self.weight) @ cells
            products = products + (text_features @ self.bias)[:, :, None]
        return products.unflatten(2, self.cells.shape[2:])

    def squared_norms(self) -> Tensor:
        """Return |F|² of every cell, [B, h, w]; rounding can make a zero slightly negative."""
        if self.weight is None or self.bias is None:
            return self.cells.square().sum(1)
        cells = self.cells.flatten(2)
        slope = self.weight.T @ self.weight @ cells + 2 * (self.bias @ self.weight)[:, None]
        norms = (cells * slope).sum(1) + self.bias.square().sum()
        return norms.unflatten(1, self.cells.shape[2:])

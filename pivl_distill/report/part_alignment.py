"""How well the cells of a network can be aligned with the part texts of a bank, part by part.

The fusion head of Eq. 10 exists in training only. In its place, a linear map from the cells of the
last map to the joint space is fitted by ridge regression to the text of each cell's identity and
part (Eq. 6). It is fitted on half of the training crops and measured on the other half, for every
network in the same way, also for those that never saw a text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pivl_distill.bank import PromptBank
from pivl_distill.report.cell_features import Cells

RIDGE = 0.01
"""Regularisation, relative to the mean variance of the cells' features."""


@dataclass(frozen=True)
class PartAlignment:
    """Cosines of the cells of one part with texts, on crops that the map was not fitted on."""

    part: int
    cells: int
    own: float
    """Mean cosine with the text of the own identity and part."""
    others: float
    """Mean cosine with the text of this part of the other identities."""


class TextProbe:
    """A linear map from cells to the joint space of a bank."""

    def __init__(self, cells: Cells, bank: PromptBank) -> None:
        """Fit the map to cells whose identities are in the bank."""
        self.bank = bank
        self._row = {pid: row for row, pid in enumerate(bank.pids)}
        self._texts = F.normalize(bank.part, dim=2)
        kept = self._with_text(cells)
        features = torch.from_numpy(kept.features).double()
        targets = self._own_texts(kept).double()
        self._mean, self._target_mean = features.mean(0), targets.mean(0)
        centred = features - self._mean
        covariance = centred.T @ centred / len(centred)
        covariance.diagonal().add_(RIDGE * covariance.diagonal().mean())
        products = centred.T @ (targets - self._target_mean) / len(centred)
        self._weight = torch.linalg.solve(covariance, products)

    def project(self, features: np.ndarray | Tensor) -> Tensor:
        """Return the unit features [..., D] of cells [..., C] in the joint space."""
        cells = torch.as_tensor(features).double()
        return F.normalize((cells - self._mean) @ self._weight + self._target_mean, dim=-1).float()

    def measure(self, cells: Cells) -> list[PartAlignment]:
        """Return the alignment of every part that these cells show, the most frequent first."""
        kept = self._with_text(cells)
        projected, found = self.project(kept.features), []
        for part in np.unique(kept.parts):
            rows = np.flatnonzero(kept.parts == part)
            present = self.bank.present[:, part]
            texts = self._texts[present, part]
            cosines = projected[torch.from_numpy(rows)] @ texts.T
            numbers = {int(row): number for number, row in enumerate(present.nonzero()[:, 0])}
            own = torch.tensor([numbers[self._row[pid]] for pid in kept.pids[rows].tolist()])
            mine = cosines.gather(1, own[:, None])[:, 0]
            others = (cosines.sum(1) - mine) / max(cosines.shape[1] - 1, 1)
            means = float(mine.mean()), float(others.mean())
            found.append(PartAlignment(int(part), len(rows), *means))
        return sorted(found, key=lambda alignment: -alignment.cells)

    def heat_map(self, cell_map: Tensor, pid: int, part: int) -> np.ndarray:
        """Return the cosine of every cell of a map [C, h, w] with a part's text: float32 [h, w]."""
        unit = F.normalize(cell_map.permute(1, 2, 0), dim=2)
        cosines: np.ndarray = (self.project(unit) @ self._texts[self._row[pid], part]).numpy()
        return cosines

    def has_text(self, pid: int, part: int) -> bool:
        """Whether the bank has a text of this part of a person."""
        return pid in self._row and bool(self.bank.present[self._row[pid], part])

    def _with_text(self, cells: Cells) -> Cells:
        pairs: Sequence[tuple[int, int]] = list(
            zip(cells.pids.tolist(), cells.parts.tolist(), strict=True)
        )
        return cells.select(np.array([self.has_text(pid, part) for pid, part in pairs], bool))

    def _own_texts(self, cells: Cells) -> Tensor:
        rows = torch.tensor([self._row[pid] for pid in cells.pids.tolist()])
        return self._texts[rows, torch.from_numpy(cells.parts)]

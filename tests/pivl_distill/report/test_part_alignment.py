"""The linear map from cells to part texts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pivl_distill.report.cell_features import Cells
from pivl_distill.report.part_alignment import TextProbe


@pytest.fixture
def cells(prompt_bank):
    """`cells(noise)`: 30 cells of every text of the bank, rotated into other features."""
    rotation = torch.linalg.qr(torch.randn(24, 24, generator=torch.Generator().manual_seed(3)))[0]

    def make(noise: float) -> Cells:
        draw = torch.Generator().manual_seed(5)
        rows, parts = prompt_bank.present.nonzero().repeat_interleave(30, dim=0).unbind(1)
        texts = F.normalize(prompt_bank.part[rows, parts], dim=1)
        wide = F.pad(texts, (0, 24 - texts.shape[1])) @ rotation
        noisy = F.normalize(wide + noise * torch.randn(wide.shape, generator=draw), dim=1)
        pids = np.array(prompt_bank.pids)[rows.numpy()]
        return Cells(noisy.numpy(), parts.numpy(), pids, np.arange(len(rows)))

    return make


def test_cells_that_are_texts_are_found_again(cells, prompt_bank):
    probe = TextProbe(cells(0.01), prompt_bank)
    for part in probe.measure(cells(0.01)):
        assert part.own > 0.95
        assert part.others < 0.6
    assert {part.part for part in probe.measure(cells(0.0))} == set(
        prompt_bank.present.any(0).nonzero()[:, 0].tolist()
    )


def test_means_are_those_of_the_cosines(cells, prompt_bank):
    probe, measured = TextProbe(cells(0.2), prompt_bank), cells(0.3)
    alignment = probe.measure(measured)[0]
    rows = np.flatnonzero(measured.parts == alignment.part)
    own, others = [], []
    for row in rows:
        projected = probe.project(measured.features[row])
        for number, pid in enumerate(prompt_bank.pids):
            if prompt_bank.present[number, alignment.part]:
                text = F.normalize(prompt_bank.part[number, alignment.part], dim=0)
                cosine = float(projected @ text)
                (own if pid == measured.pids[row] else others).append(cosine)
    assert alignment.cells == len(rows)
    assert alignment.own == pytest.approx(np.mean(own), abs=1e-5)
    assert alignment.others == pytest.approx(np.mean(others), abs=1e-5)


def test_parts_are_ordered_by_frequency_and_unknown_texts_left_out(cells, prompt_bank):
    some = cells(0.1)
    found = TextProbe(some, prompt_bank).measure(some)
    assert [part.cells for part in found] == sorted((p.cells for p in found), reverse=True)
    absent = int((~prompt_bank.present[2]).nonzero()[0, 0])
    probe = TextProbe(some, prompt_bank)
    assert not probe.has_text(prompt_bank.pids[2], absent)
    assert not probe.has_text(999, 0)


def test_a_heat_map_has_the_cosine_of_every_cell(cells, prompt_bank):
    probe = TextProbe(cells(0.1), prompt_bank)
    cell_map = torch.randn(24, 4, 2, generator=torch.Generator().manual_seed(9))
    part = int(prompt_bank.present[0].nonzero()[0, 0])
    heat = probe.heat_map(cell_map, prompt_bank.pids[0], part)
    assert heat.shape == (4, 2)
    unit = F.normalize(cell_map[:, 3, 1], dim=0)
    text = F.normalize(prompt_bank.part[0, part], dim=0)
    assert heat[3, 1] == pytest.approx(float(probe.project(unit) @ text), abs=1e-5)

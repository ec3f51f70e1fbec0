"""The sections that open networks: their numbers and pictures, and what they leave out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pivl_distill.report import chosen_cells
from pivl_distill.report.blocks import Chart, ChartGrid, LeftOutError, PictureRows, Table, Text
from pivl_distill.report.cell_features import MAX_CELLS, measure_purity, sample_rows
from pivl_distill.report.chosen_cells import cells_of, choose_crops, choose_parts, shown_cells
from pivl_distill.report.context import ReportContext, ReportSettings
from pivl_distill.report.opened import open_networks
from pivl_distill.report.sections import activations, alignment, consistency
from pivl_distill.storage.filenames import BANK_FILE

NAMES = ("student-1", "student-2", "teach-1", "export-1")


@pytest.fixture(scope="module")
def context(report_runs) -> ReportContext:
    pytest.importorskip("pytorch_grad_cam", reason="grad-cam is not installed ([report])")
    return ReportContext([report_runs[name] for name in NAMES], ReportSettings())


def table(blocks: list[object]) -> Table:
    (found,) = [block for block in blocks if isinstance(block, Table)]
    return found


def test_heat_is_measured_and_shown_for_every_network(context, monkeypatch):
    monkeypatch.setattr(activations, "QUERIES", 6)
    monkeypatch.setattr(activations, "SHOWN", 2)
    blocks = activations.build(context)
    rows = table(blocks).rows
    assert [row[0] for row in rows] == [network.label for network in context.scored]
    for row in rows:
        assert 0 < row[1].value < 1
        assert 0 < row[2].value < 0.8
        assert row[3].value == 6
    (pictures,) = [block for block in blocks if isinstance(block, PictureRows)]
    assert [len(row.lines[0].pictures) for row in pictures.rows] == [1 + len(rows)] * 2
    alts = {picture.alt for row in pictures.rows for picture in row.lines[0].pictures}
    assert len(alts) == 2 * (1 + len(rows))


def test_without_photographs_the_numbers_stay(context, monkeypatch):
    monkeypatch.setattr(activations, "QUERIES", 4)
    hidden = ReportContext(context.runs[:1], replace(context.settings, crops=False))
    blocks = activations.build(hidden)
    assert len(table(blocks).rows) == 1
    assert any(isinstance(b, Text) and "Pictures are left out" in b.text for b in blocks)
    assert not any(isinstance(block, PictureRows) for block in blocks)


def test_purity_is_that_of_the_cells(context, monkeypatch):
    monkeypatch.setattr(chosen_cells, "SHOWN_CELLS", 60)
    monkeypatch.setattr(chosen_cells, "PEOPLE", 8)
    blocks = consistency.build(context)
    networks, _ = open_networks(context)
    positions = choose_crops(context, networks[0].model.size_hw)
    cells = cells_of(context, networks[0], positions)
    expected = measure_purity(cells.select(sample_rows(cells.parts, MAX_CELLS)))
    row = table(blocks).rows[0]
    assert (row[1].value, row[3].value, row[4].value) == pytest.approx(
        (expected.part, expected.silhouette, expected.identity)
    )
    (grid,) = [block for block in blocks if isinstance(block, ChartGrid)]
    assert [chart.title for chart in grid.charts] == [network.label for network in networks]
    chart: Chart = grid.charts[0]
    parts = choose_parts(context, positions, networks[0].model.size_hw)
    shown = shown_cells(cells, parts)
    assert sum(len(trace.x) for trace in chart.figure.data) == len(shown)
    assert len({s for trace in chart.figure.data for s in trace.marker.symbol}) == len(
        np.unique(shown.pids)
    )


def test_alignment_lists_the_parts_by_frequency(context, monkeypatch):
    monkeypatch.setattr(alignment, "CROPS", 40)
    monkeypatch.setattr(alignment, "SHOWN_CROPS", 1)
    blocks = alignment.build(context)
    shares = [row[1].value for row in table(blocks).rows]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(1)
    labels = context.dataset.vocabulary.labels
    assert {row[0] for row in table(blocks).rows} <= set(labels)
    for row in table(blocks).rows:
        assert all(cell.value is None or -1 <= cell.value <= 1 for cell in row[2:])
    (pictures,) = [block for block in blocks if isinstance(block, PictureRows)]
    (row,) = pictures.rows
    assert [picture.caption for picture in row.lines[0].pictures] == ["crop", "parts"]
    assert len(row.lines) == 1 + len(context.scored)


def test_without_a_bank_the_alignment_is_left_out(desk: Path) -> None:
    from pivl_distill.report.runs import find_runs

    plain = ReportContext(find_runs([desk / "runs" / "student-2"]), ReportSettings())
    (desk / "runs" / "teach-1" / BANK_FILE).unlink()
    with pytest.raises(LeftOutError, match="No prompt bank"):
        alignment.build(plain)

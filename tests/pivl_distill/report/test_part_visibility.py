"""Parts that a query shows or hides, against its part map."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pivl_distill.report.blocks import LeftOutError
from pivl_distill.report.context import ReportContext, ReportSettings
from pivl_distill.report.part_visibility import MIN_SHARE, part_visibility, visible_parts

SIZE_HW = (128, 64)


@pytest.fixture(scope="module")
def context(report_runs) -> ReportContext:
    return ReportContext([report_runs["student-2"]], ReportSettings())


def test_visible_parts_are_those_with_enough_pixels(context) -> None:
    records = context.dataset.query[:5]
    visible, has_map = visible_parts(context, records, SIZE_HW)
    assert has_map.all()
    for row, record in enumerate(records):
        part_map = context.part_map(record, SIZE_HW)
        for part in range(visible.shape[1]):
            assert visible[row, part] == ((part_map == part).sum() >= MIN_SHARE * part_map.size)


def test_hidden_parts_are_shown_by_another_crop_of_the_person(context) -> None:
    found = part_visibility(context, SIZE_HW)
    everyone = (*context.dataset.query, *context.dataset.gallery)
    visible, _ = visible_parts(context, everyone, SIZE_HW)
    assert not (found.shown & found.hidden).any()
    for row in range(0, len(context.dataset.query), 9):
        pid = context.dataset.query[row].pid
        same = [place for place, record in enumerate(everyone) if record.pid == pid]
        worn = visible[same].any(axis=0)
        assert (found.hidden[row] == (worn & ~visible[row])).all()
    assert found.hidden.any()


def test_data_without_maps_is_left_out(context, monkeypatch) -> None:
    other = ReportContext(context.runs, ReportSettings())
    other.dataset = context.dataset
    monkeypatch.setattr(other, "part_map", lambda *_: None)
    with pytest.raises(LeftOutError, match="queries have no part maps"):
        part_visibility(other, SIZE_HW)
    other.dataset = replace(context.dataset, vocabulary=None)
    with pytest.raises(LeftOutError, match="data set has no part maps"):
        part_visibility(other, SIZE_HW)

"""The record of the tracking benchmark: means, paired intervals, and the table on the page."""

from __future__ import annotations

import math
import statistics

import pytest

from benchmarks.experiment import Origin
from benchmarks.tracking.report import (
    PAGE,
    RESULT,
    TRACKERS,
    Record,
    Row,
    read,
    render_page,
    table_cells,
)
from pivl_distill.errors import PivlError

ORIGIN = Origin(commit="abc1234", versions={"torch": "2.8"}, processor="a processor", threads=2)
WITHOUT, WITH = (0.50, 0.60, 0.52), (0.58, 0.64, 0.61)
T_95 = 4.302652729911275
"""97.5 % quantile of Student's t with two degrees of freedom."""


@pytest.fixture
def record() -> Record:
    rows = [
        Row(tracker=tracker, arm=arm, sequence=f"seed-{number}", IDF1=value, HOTA=value / 2,
            AssA=0.4, DetA=0.5, switches=number)
        for tracker in TRACKERS
        for arm, values in (("without", WITHOUT), ("with", WITH))
        for number, value in enumerate(values)
    ]  # fmt: skip
    return Record(
        network="n", precision="fp32", data="synthetic:tiny", max_cosine_distance=0.2, frames=9,
        packages=["norfair==2"], origin=ORIGIN, rows=rows[::-1],
    )  # fmt: skip


def test_the_interval_is_that_of_the_paired_differences(record):
    differences = [100 * (a - b) for a, b in zip(WITH, WITHOUT, strict=True)]
    half = T_95 * statistics.stdev(differences) / math.sqrt(3)
    gain = record.gain("norfair", "IDF1")
    assert gain.mean == pytest.approx(7.0)
    assert gain.low == pytest.approx(7.0 - half)
    assert gain.high == pytest.approx(7.0 + half)
    assert record.gain("norfair", "AssA").low == 0


def test_the_table_has_two_rows_per_tracker(record):
    cells = table_cells(record)
    assert [row[:2] for row in cells] == [
        (label, arm) for label in TRACKERS.values() for arm in ("without", "with")
    ]
    assert cells[1][2:6] == ("61.0", "30.5", "40.0", "1.0")
    assert cells[0][6:] == ("", "")
    assert cells[1][6].startswith("+7.0 [")


def test_the_page_has_the_table_of_the_result_file():
    page = PAGE.read_text(encoding="utf-8")
    assert page == render_page(page, read()), "run `python -m benchmarks.tracking --record`"
    assert "| gain in HOTA |" in page


def test_features_help_every_tracker_in_the_result_file():
    found = read()
    assert len({row.sequence for row in found.rows}) >= 10
    for tracker in TRACKERS:
        for figure in ("IDF1", "HOTA"):
            assert (found.gain(tracker, figure).low or 0) > 0


def test_another_file_is_refused(tmp_path):
    (tmp_path / "file.json").write_text('{"rows": []}')
    with pytest.raises(PivlError, match=r"file\.json' is not a result of the tracking benchmark"):
        read(tmp_path / "file.json")
    assert RESULT.is_file()

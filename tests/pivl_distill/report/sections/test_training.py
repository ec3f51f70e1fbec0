"""Every line of metrics.jsonl is on the page, in a curve and in a table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pivl_distill.report.blocks import ChartGrid, LeftOutError
from pivl_distill.report.context import ReportContext, ReportSettings
from pivl_distill.report.runs import find_runs
from pivl_distill.report.sections import training

TITLES = training.LOSSES | training.OTHERS
TRAINED = ("teach-1", "student-1", "student-2")


def lines(folder: Path, run: str) -> list[dict]:
    text = (folder / "runs" / run / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("run", TRAINED)
def test_every_number_of_every_line_is_in_a_table(page, run_folders, report_runs, run) -> None:
    label = report_runs[run].label
    compared = 0
    for line in lines(run_folders, run):
        stage = training.STAGES[line["stage"]]
        for key, value in line.items():
            if key in training.KEYS:
                continue
            row = page.tables[f"Numbers: {TITLES.get(key, key)}, {stage}"].row(str(line["epoch"]))
            assert row[label][1] == value, key
            compared += 1
    assert compared > 5


def test_curves_are_the_numbers_of_the_lines(report_runs, run_folders) -> None:
    run = report_runs["student-2"]
    epochs, values = training.curve(run, "reid", "align")
    recorded = lines(run_folders, "student-2")
    assert epochs == [line["epoch"] for line in recorded]
    assert values == [line["align"] for line in recorded]
    blocks = training.build(ReportContext([run], ReportSettings()))
    charts = [chart for block in blocks if isinstance(block, ChartGrid) for chart in block.charts]
    (chart,) = [chart for chart in charts if chart.title == TITLES["align"]]
    assert list(chart.figure.data[0].y) == values
    assert set(chart.log_axes) == {"xaxis", "yaxis"}


def test_losses_come_first_and_unknown_quantities_last(desk: Path) -> None:
    file = desk / "runs" / "student-2" / "metrics.jsonl"
    added = {"val_mAP": 0.5, "zz_new": 1.0, "note": "text"}
    rows = [json.loads(line) | added for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = training.quantities(find_runs([Path("runs/student-2")]), "reid")
    assert found[0] == "identity"
    assert found[-1] == "zz_new"
    assert "val_mAP" in found
    assert "note" not in found


def test_a_quantity_that_only_one_run_has_leaves_the_other_column_empty(page, report_runs) -> None:
    table = page.tables[f"Numbers: {TITLES['align']}, {training.STAGES['reid']}"]
    assert report_runs["student-2"].label in table.columns
    assert report_runs["student-1"].label not in table.columns


def test_without_metrics_the_section_is_left_out(report_runs) -> None:
    with pytest.raises(LeftOutError, match=r"metrics\.jsonl"):
        training.build(ReportContext([report_runs["export-1"]], ReportSettings()))

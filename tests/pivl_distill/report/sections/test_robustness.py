"""The robustness card's numbers are those of the manifest."""

from __future__ import annotations

import dataclasses

import pytest

from pivl_distill.report.blocks import ChartGrid, LeftOutError, Table
from pivl_distill.report.context import ReportContext, ReportSettings
from pivl_distill.report.runs import ReportRun
from pivl_distill.report.sections import robustness
from pivl_distill.retrieval.robustness import (
    CameraPairScores,
    ConditionScores,
    RobustnessCard,
    Scores,
)

CARD = RobustnessCard(
    "query",
    Scores(0.9, 0.95),
    tuple(
        ConditionScores(name, strength, 0.9 - strength / 10, 0.95 - strength / 10)
        for name in ("noise", "jpeg")
        for strength in range(1, 6)
    ),
    (
        CameraPairScores(
            0, 1, 7, Scores(0.9, 1), {"noise": Scores(0.5, 0.5), "jpeg": Scores(0.7, 1)}
        ),
        CameraPairScores(
            1, 0, 9, Scores(0.8, 1), {"noise": Scores(0.4, 0.5), "jpeg": Scores(0.2, 0)}
        ),
    ),
)


@pytest.fixture
def measured(report_runs: dict[str, ReportRun]) -> ReportContext:
    run = report_runs["export-1"]
    artifacts = [
        artifact.model_copy(update={"robustness": CARD if artifact.precision == "fp32" else None})
        for artifact in run.manifest.artifacts
    ]
    run = dataclasses.replace(run, manifest=run.manifest.with_artifacts(artifacts))
    return ReportContext([run], ReportSettings())


def test_every_number_is_that_of_the_manifest(measured: ReportContext) -> None:
    blocks = robustness.build(measured)
    means, conditions, pairs = [block for block in blocks if isinstance(block, Table)]
    label = "export-1/model.onnx"
    assert [cell if isinstance(cell, str) else cell.value for cell in means.rows[0]] == [
        label, 0.9, CARD.mean().mAP, 0.95, CARD.mean().rank1,
    ]  # fmt: skip
    assert [(row[1], row[2].value, row[3].value, row[4].value) for row in conditions.rows] == [
        (row.corruption, row.strength, row.mAP, row.rank1) for row in CARD.conditions
    ]
    assert [row[0] for row in pairs.rows] == ["1 → 0", "0 → 1"]  # the worst first
    assert pairs.rows[0][5] == "jpeg"
    assert (pairs.rows[0][3].value, pairs.rows[0][4].value) == pytest.approx((0.3, 0.2))


def test_a_curve_starts_without_corruption(measured: ReportContext) -> None:
    (grid,) = [b for b in robustness.build(measured) if isinstance(b, ChartGrid)]
    assert [chart.title for chart in grid.charts] == ["noise", "jpeg"]
    (trace,) = grid.charts[0].figure.data
    assert list(trace.x) == [0, 1, 2, 3, 4, 5]
    assert list(trace.y) == pytest.approx([90, 80, 70, 60, 50, 40])


def test_without_a_card_the_section_says_how_to_measure_one(
    report_runs: dict[str, ReportRun],
) -> None:
    with pytest.raises(LeftOutError, match="export --corruptions"):
        robustness.build(ReportContext([report_runs["export-1"]], ReportSettings()))

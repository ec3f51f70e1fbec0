"""Curves and error tables are those of the scored features."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from pivl_distill.report.blocks import PictureRows, Text
from pivl_distill.report.context import ReportContext, ReportSettings
from pivl_distill.report.networks import ScoredNetwork
from pivl_distill.report.sections import retrieval
from pivl_distill.report.sections.retrieval import crops_per_query, group_by_count
from pivl_distill.retrieval.camera_pairs import camera_pairs


@pytest.fixture(scope="module")
def context(report_runs) -> ReportContext:
    return ReportContext([report_runs["student-2"], report_runs["export-1"]], ReportSettings())


@pytest.fixture(scope="module")
def student(context: ReportContext) -> ScoredNetwork:
    (network,) = context.scored
    return network


def test_the_matching_curve_is_that_of_the_run(page, report_runs, student) -> None:
    table = page.tables["Numbers: cumulative matching curve"]
    recorded = report_runs["student-2"].summary["retrieval"]
    for rank in (1, 5, 10):
        assert table.row(str(rank))["student-2"][1] == pytest.approx(recorded[f"rank{rank}"])


def test_crops_per_query_are_counted_one_by_one(student) -> None:
    query, gallery = student.evaluation.test.query, student.evaluation.test.gallery
    counts = crops_per_query(student)
    for row in range(0, len(query), 7):
        hits = [
            pid == query.pids[row] and camera != query.camids[row]
            for pid, camera in zip(gallery.pids, gallery.camids, strict=True)
        ]
        assert counts[row] == sum(hits)
    assert ((counts > 0) == student.scores.valid).all()


@pytest.mark.parametrize(
    "counts", [[5] * 9, [1, 1, 1, 7], list(range(1, 200)), [1] * 500 + [2, 3, 90]]
)
def test_groups_are_few_ascending_and_complete(counts: list[int]) -> None:
    values = np.array(counts)
    groups = group_by_count(values)
    assert 1 <= len(groups) <= retrieval.MAX_GROUPS
    assert sorted(np.concatenate(groups)) == list(range(len(values)))
    for one, other in itertools.pairwise(groups):
        assert values[one].max() < values[other].min()


def test_camera_pairs_are_scored_alone(page, student) -> None:
    table = page.tables["Numbers: scores of camera pairs"]
    for pair in camera_pairs(student.evaluation.test):
        mean_ap, rank1 = pair.scores(student.evaluation.features, student.evaluation.test)
        name = f"{student.label}: {pair.query_camera + 1} → {pair.gallery_camera + 1}"
        row = table.row(name)
        assert row["Queries"][1] == len(pair.query)
        assert (row["mAP"][1], row["Rank-1"][1]) == pytest.approx((mean_ap, rank1))


def test_without_photographs_only_the_pictures_are_missing(context, report_runs) -> None:
    hidden = ReportContext(context.runs, ReportSettings(crops=False))
    hidden._scored = context._scored
    plain, without = retrieval.build(context), retrieval.build(hidden)
    assert [type(block) for block in without if not isinstance(block, Text)] == [
        type(block) for block in plain if not isinstance(block, Text | PictureRows)
    ]
    assert any("--no-crops" in block.text for block in without if isinstance(block, Text))


def test_without_cameras_or_maps_these_errors_are_left_out(context, student) -> None:
    crops = student.evaluation.test
    blind = replace(
        crops,
        query=replace(crops.query, camids=None),
        gallery=replace(crops.gallery, camids=None),
    )
    network = ScoredNetwork(student.network, replace(student.evaluation, test=blind))
    (block,) = retrieval._camera_pairs([network])
    assert "cameras are unknown" in block.text
    unmapped = ReportContext(context.runs, ReportSettings(crops=False))
    unmapped.dataset = replace(context.dataset, vocabulary=None)
    (block,) = retrieval._hidden_parts(unmapped, [student])
    assert "no part maps" in block.text

"""Thresholds are those of the manifest, rates those of the features."""

from __future__ import annotations

import json

import pytest

from pivl_distill.report.context import ReportContext, ReportSettings
from pivl_distill.report.verification import network_thresholds
from pivl_distill.retrieval.score_distribution import score_distribution


def test_thresholds_are_those_of_the_manifest(page, run_folders, report_runs) -> None:
    manifest = json.loads((run_folders / "runs/export-1/manifest.json").read_text())
    table, label = page.tables["Operating thresholds"], report_runs["student-2"].label
    for threshold in manifest["artifacts"][0]["thresholds"]:
        row = table.row(f"{label}, {threshold['far']:g}")
        assert row["Cosine"][1] == threshold["cosine"]
        assert row["True-accept rate"][1] == threshold["tar"]
        assert (row["Low"][1], row["High"][1]) == (threshold["tar_low"], threshold["tar_high"])
        assert row["Pairs of two people"][1] == threshold["impostor_pairs"]
        if threshold["cosine"] is None:
            assert row["Cosine"][0] == "too few pairs"


def test_without_an_export_thresholds_are_measured(report_runs) -> None:
    context = ReportContext([report_runs["student-2"]], ReportSettings())
    measured = network_thresholds(context.scored[0])
    recorded = report_runs["export-1"].manifest.artifacts[0].thresholds
    for ours, theirs in zip(measured, recorded, strict=True):
        assert ours.far == theirs.far
        assert ours.impostor_pairs == theirs.impostor_pairs
        if theirs.cosine is not None:
            assert ours.cosine == pytest.approx(theirs.cosine, abs=1e-4)


def test_the_equal_error_rate_is_that_of_the_features(page, report_runs) -> None:
    runs = [report_runs["student-2"], report_runs["export-1"]]
    (network,) = ReportContext(runs, ReportSettings()).scored
    counts = score_distribution(network.evaluation.features, network.evaluation.test)
    row = page.tables["Equal error rates"].row("student-2")
    assert row["Equal error rate"][1] == pytest.approx(counts.equal_error_rate)

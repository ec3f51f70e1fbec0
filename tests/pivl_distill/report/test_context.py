"""What sections work from: the data set, scores and pictures."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pivl_distill.report.blocks import LeftOutError
from pivl_distill.report.context import ReportContext, ReportSettings
from pivl_distill.report.runs import find_runs


def test_networks_are_scored_once_and_agree_with_their_files(report_runs) -> None:
    context = ReportContext([report_runs["student-2"], report_runs["export-1"]], ReportSettings())
    (scored,) = context.require_scored()
    assert context.scored[0] is scored
    recorded = report_runs["student-2"].summary["retrieval"]["mAP"]
    assert scored.valid_precision.mean() == pytest.approx(recorded, abs=1e-4)


def test_a_network_without_files_is_named(desk: Path) -> None:
    (desk / "runs" / "student-1" / "student.safetensors").unlink()
    context = ReportContext(find_runs([Path("runs/student-1")]), ReportSettings())
    with pytest.raises(LeftOutError, match="neither a checkpoint nor an exported file"):
        context.require_scored()


def test_networks_of_other_data_are_not_mixed_in(desk: Path) -> None:
    config = desk / "runs" / "student-1" / "config.yaml"
    config.write_text(config.read_text().replace("synthetic:tiny", "synthetic:small"))
    runs = find_runs([Path("runs/student-1"), Path("runs/student-2")])
    context = ReportContext(runs, ReportSettings())
    assert [scored.network.name for scored in context.scored] == ["student-2"]
    assert "trained on synthetic:small, not on synthetic:tiny" in context.not_scored[0]


def test_data_that_cannot_be_read_is_a_reason_not_an_error(report_runs) -> None:
    settings = ReportSettings(spec="market1501:/nowhere")
    context = ReportContext([report_runs["student-2"]], settings)
    with pytest.raises(LeftOutError, match="/nowhere"):
        context.require_scored()


def test_maps_of_query_and_gallery_are_found(report_runs) -> None:
    context = ReportContext([report_runs["student-2"]], ReportSettings())
    for split in (context.dataset.query, context.dataset.gallery, context.dataset.train):
        part_map = context.part_map(split[0], (64, 32))
        assert part_map is not None
        assert part_map.shape == (64, 32)


@pytest.mark.parametrize(
    ("heads", "synthetic", "pixelated"),
    [
        ("auto", True, False),
        ("auto", False, True),
        ("shown", False, False),
        ("pixelated", True, True),
    ],
)
def test_heads_are_pixelated_unless_synthetic_or_asked_otherwise(
    report_runs, heads, synthetic: bool, pixelated: bool
) -> None:
    context = ReportContext([report_runs["student-2"]], ReportSettings(heads=heads))
    if not synthetic:
        context.dataset = replace(context.dataset, people=None)
    assert context.pictures.pixelated is pixelated


def test_crops_are_pictured_with_their_head_pixelated(report_runs) -> None:
    runs, record_settings = [report_runs["student-2"]], ReportSettings(heads="pixelated")
    plain, hidden = ReportContext(runs, ReportSettings()), ReportContext(runs, record_settings)
    record, crop = plain.dataset.query[0], np.zeros((128, 64, 3), np.uint8)
    crop[::2] = 255
    pictures = [context.crop_picture(record, crop, "a") for context in (plain, hidden)]
    assert pictures[0].uri != pictures[1].uri
    with pytest.raises(LeftOutError, match="--no-crops"):
        ReportContext(runs, ReportSettings(crops=False)).crop_picture(record, crop, "a")


def test_the_workspace_holds_runs_that_are_not_on_the_page(desk: Path) -> None:
    context = ReportContext(find_runs([Path("runs/student-2")]), ReportSettings())
    assert len(context.workspace) == len(list((desk / "runs").iterdir()))
    assert json.loads((desk / "runs/student-2/run.json").read_text()) == context.runs[0].summary

"""The table of files is that of the manifests of the workspace."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pivl_distill.report.blocks import Chart, ChartGrid, LeftOutError, Text
from pivl_distill.report.context import ReportContext, ReportSettings
from pivl_distill.report.runs import find_runs
from pivl_distill.report.sections import deployment as module


@pytest.fixture
def measured(monkeypatch) -> None:
    """Sensitivities without measuring any."""
    found = {f"layer{n}": 1 / (1 + n) for n in range(2 * module.LISTED_LAYERS)}
    monkeypatch.setattr(module, "int8_sensitivity", lambda *_: found)


def test_files_are_those_of_the_manifests(page, run_folders: Path, report_runs) -> None:
    table = page.tables["Files of the workspace"]
    for run in ("export-1", "export-2"):
        manifest = json.loads((run_folders / "runs" / run / "manifest.json").read_text())
        for artifact in manifest["artifacts"]:
            row = table.row(f"{run}/{artifact['file']}")
            assert row["mAP"][1] == artifact["retrieval"]["exported_mAP"]
            timed = {latency["batch"]: latency["median_ms"] for latency in artifact["latency"]}
            assert (row["Batch 1"][1], row["Batch 32"][1]) == (timed.get(1), timed.get(32))
            assert row["Size"][1] == artifact["bytes"]
    assert any("batch" in row[-1][0] for row in table.rows)


def test_cosines_are_those_of_the_manifests(page, run_folders: Path) -> None:
    table = page.tables["Features of each file against the checkpoint, of its manifest"]
    manifest = json.loads((run_folders / "runs/export-1/manifest.json").read_text())
    for artifact in manifest["artifacts"]:
        row = table.row(f"export-1/{artifact['file']}")
        assert row["Least cosine"][1] == artifact["parity"]["min_cosine"]
        assert row["Mean cosine"][1] == artifact["parity"]["mean_cosine"]


def test_layers_are_on_the_page_most_sensitive_first(page) -> None:
    errors = page.tables["Numbers: INT8 per layer of export-1"].values("Error")
    assert len(errors) > 5
    assert errors == sorted(errors, reverse=True)


@pytest.mark.usefixtures("measured")
def test_the_whole_workspace_is_compared(desk: Path) -> None:
    shutil.copytree("runs/student-1", "runs/student-9")
    (desk / "runs/student-9/student.safetensors").unlink()
    blocks = module.build(ReportContext(find_runs([Path("runs/export-1")]), ReportSettings()))
    (table,) = [b for b in blocks if getattr(b, "caption", "") == "Files of the workspace"]
    assert {row[0] for row in table.rows} >= {"export-1/model.onnx", "export-2/model.onnx"}
    notes = [block.text for block in blocks if isinstance(block, Text)]
    assert "Not exported, so without latency: student-9." in notes
    (bars,) = [b for b in blocks if isinstance(b, Chart) and "one layer" in b.title]
    assert len(bars.table.rows) == module.LISTED_LAYERS
    assert any(isinstance(block, ChartGrid) for block in blocks)


@pytest.mark.usefixtures("desk")
def test_without_reduced_precision_the_rest_is_left_out() -> None:
    blocks = module.build(ReportContext(find_runs([Path("runs/export-2")]), ReportSettings()))
    assert any("no run has a file in fp16 or INT8" in getattr(b, "text", "") for b in blocks)


def test_without_any_export_the_section_is_left_out(tmp_path, monkeypatch, report_runs) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LeftOutError, match="no export"):
        module.build(ReportContext([report_runs["student-2"]], ReportSettings()))

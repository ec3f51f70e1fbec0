"""Each number of the summary is that of the run's files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pivl_distill.report.context import ReportContext, ReportSettings
from pivl_distill.report.intervals import bootstrap_mean
from pivl_distill.report.runs import find_runs
from pivl_distill.report.sections import summary

STUDENT = "student-2 (part texts and teacher's embeddings)"


def read(folder: Path, run: str, file: str):
    return json.loads((folder / "runs" / run / file).read_text())


@pytest.mark.parametrize(
    ("label", "run"),
    [("teach-1 (teacher)", "teach-1"), (STUDENT, "student-2")],
)
def test_scores_are_those_of_run_json(page, run_folders: Path, label: str, run: str) -> None:
    recorded = read(run_folders, run, "run.json")["retrieval"]
    row = page.tables["Scores on query and gallery"].row(label)
    for column, key in summary.SCORES.items():
        assert row[column][1] == recorded[key]
    assert row["mAP"][0] == f"{100 * recorded['mAP']:.1f} %"
    assert row["Queries"][1] == recorded["valid_queries"]
    assert row["Camera rule"][0] == "yes"


def test_costs_and_verdicts_are_those_of_the_manifest(page, run_folders: Path) -> None:
    manifest = read(run_folders, "export-1", "manifest.json")
    cost = page.tables["Cost of the float32 file, with ONNX Runtime on a CPU"].row(STUDENT)
    assert cost["Parameters"][1] == manifest["cost"]["parameters"]
    assert cost["Multiply-adds"][1] == manifest["cost"]["macs"]
    files = page.tables["Files shipped, and the verdicts of the gate"]
    for artifact in manifest["artifacts"]:
        row = files.row(f"export-1/{artifact['file']}")
        retrieval, budget = artifact["retrieval"], manifest["budgets"][artifact["precision"]]
        assert artifact["status"] in row["Verdict"][0]
        assert row["Least cosine"][1] == artifact["parity"]["min_cosine"]
        assert row["Budget"][1] == budget["min_cosine"]
        lost = 100 * (retrieval["checkpoint_mAP"] - retrieval["exported_mAP"])
        assert row["Loss of mAP, points"][1] == lost
        assert row["Size"][1] == artifact["bytes"]
        timed = {latency["batch"]: latency["median_ms"] for latency in artifact["latency"]}
        assert row["Latency, batch 1"][1] == timed.get(1)
        assert row["Latency, batch 32"][1] == timed.get(32)


def test_what_was_trained_on_what(page, run_folders: Path) -> None:
    row = page.tables["What was trained on what"].row(STUDENT)
    assert row["Data"][0] == "synthetic:tiny"
    assert row["Epochs"][1] == 3
    assert row["Training time"][1] == read(run_folders, "student-2", "run.json")["seconds"]
    seconds = read(run_folders, "teach-1", "run.json")["seconds"]
    teacher = page.tables["What was trained on what"].row("teach-1 (teacher)")
    assert teacher["Training time"][1] == sum(seconds.values())


def test_intervals_are_those_of_the_queries(page, report_runs) -> None:
    context = ReportContext([report_runs["student-2"], report_runs["export-1"]], ReportSettings())
    low, high = bootstrap_mean(context.scored[0].valid_precision)
    row = page.tables["Scores on query and gallery"].row(STUDENT)
    assert row["95 % interval"][0] == f"{100 * low:.1f} – {100 * high:.1f}"
    assert low <= row["mAP"][1] <= high


def test_scores_that_are_not_those_of_the_run_any_more_are_named(desk: Path) -> None:
    file = desk / "runs" / "student-2" / "run.json"
    recorded = json.loads(file.read_text())
    recorded["retrieval"]["mAP"] += 0.01
    file.write_text(json.dumps(recorded))
    context = ReportContext(find_runs([Path("runs/student-2")]), ReportSettings())
    texts = [block.text for block in summary.build(context) if hasattr(block, "text")]
    assert any("student.safetensors has an mAP of" in text for text in texts)


def test_a_failed_file_has_its_reason(desk: Path) -> None:
    file = desk / "runs" / "export-1" / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest["artifacts"][1] |= {"status": "failed", "failure": "Over budget."}
    file.write_text(json.dumps(manifest))
    context = ReportContext(find_runs([Path("runs/export-1")]), ReportSettings())
    table = next(
        block
        for block in summary.build(context)
        if getattr(block, "caption", "").startswith("Files")
    )
    verdict = table.rows[1][3]
    assert (verdict.text, verdict.mark) == ("failed: Over budget.", "wrong")


def test_without_an_export_the_summary_says_so(report_runs) -> None:
    blocks = summary.build(ReportContext([report_runs["student-2"]], ReportSettings()))
    assert any("No export" in getattr(block, "text", "") for block in blocks)

"""Which runs a page is about, and what it calls them."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import pytest

from pivl_distill.errors import PivlError
from pivl_distill.report.runs import distinct_names, find_runs, workspace_runs


def test_the_default_is_the_latest_finished_run_of_each_kind(desk: Path) -> None:
    for age, name in enumerate(("teach-1", "export-2", "student-2", "student-1", "export-1")):
        os.utime(desk / "runs" / name / "run.json", (1000 + age, 1000 + age))
    (desk / "runs" / "student-3").mkdir()
    (desk / "runs" / "student-3" / "config.yaml").write_text("student: {}\n")
    assert [run.name for run in find_runs([])] == ["teach-1", "student-1", "export-1"]


def test_kinds_without_a_run_are_left_out(desk: Path) -> None:
    for name in ("export-1", "export-2", "teach-1"):
        (desk / "runs" / name / "run.json").unlink()
    assert [run.kind for run in find_runs([])] == ["student"]


def test_no_run_at_all_is_an_error_that_names_the_folder(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PivlError, match=f"No finished run in {tmp_path}/runs; run `pivl-distill"):
        find_runs([])


def test_named_runs_keep_their_order_and_appear_once(desk: Path) -> None:
    named = [Path("runs/export-1"), Path("runs/teach-1"), desk / "runs" / "export-1"]
    assert [run.name for run in find_runs(named)] == ["export-1", "teach-1"]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda run: (run / "run.json").unlink(), "no finished run"),
        (lambda run: (run / "run.json").write_text("{"), "not the summary of a run"),
        (lambda run: (run / "run.json").write_text('{"kind": "cake"}'), "of the kind 'cake'"),
        (lambda run: (run / "manifest.json").unlink(), "has no manifest.json"),
        (lambda run: (run / "metrics.jsonl").write_text("x\n"), "damaged in line 1"),
    ],
)
def test_a_damaged_run_is_refused_by_name(desk: Path, spoil, message: str) -> None:
    spoil(desk / "runs" / "export-1")
    with pytest.raises(PivlError, match=message) as error:
        find_runs([Path("runs/export-1")])
    assert "export-1" in str(error.value)


def test_a_missing_folder_is_refused() -> None:
    with pytest.raises(PivlError, match="No run folder at nowhere"):
        find_runs([Path("nowhere")])


def test_labels_say_what_a_network_learned_from(report_runs) -> None:
    assert {run.label for run in report_runs.values()} == {
        "teach-1 (teacher)",
        "student-1 (labels alone)",
        "student-2 (part texts and teacher's embeddings)",
        "export-1 (export)",
        "export-2 (export)",
    }
    assert report_runs["student-2"].architecture == "mobilenetv2_025"
    assert report_runs["export-1"].architecture == "mobilenetv2_025"
    assert report_runs["teach-1"].architecture == "tiny_rn"


def test_what_a_run_read_is_what_its_files_hold(run_folders: Path, report_runs) -> None:
    folder, run = run_folders / "runs" / "student-2", report_runs["student-2"]
    assert run.summary == json.loads((folder / "run.json").read_text())
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    assert run.metrics == [json.loads(line) for line in lines]
    assert run.config["arch"] == "mobilenetv2_025"


def test_names_grow_until_they_differ() -> None:
    folders = [Path("/x/a/run"), Path("/x/b/run"), Path("/x/b/other")]
    assert distinct_names(folders) == ["a/run", "b/run", "other"]


def test_the_workspace_is_all_runs_and_unreadable_ones_are_named(desk: Path, caplog) -> None:
    known = find_runs([Path("runs/student-2")])
    (desk / "runs" / "export-1" / "manifest.json").write_text("{}")
    with caplog.at_level(logging.WARNING):
        found = workspace_runs(known)
    assert found[0] is known[0]
    assert sorted(run.name for run in found) == ["export-2", "student-1", "student-2", "teach-1"]
    assert "runs/export-1 is left out of the report" in caplog.text

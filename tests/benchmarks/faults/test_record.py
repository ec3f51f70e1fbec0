"""The record of the faults: written as they come, continued, and shown on the page."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.experiment import Origin
from benchmarks.faults.kills import Kill
from benchmarks.faults.outcomes import Outcome
from benchmarks.faults.record import FILE, Record
from benchmarks.faults.tables import MARKED, PAGE, fault_rows, kill_rows, render, update_page

HERE = Origin(commit="0123456789", versions={"python": "3.11"}, processor="a processor", threads=1)
THERE = HERE.model_copy(update={"commit": "9876543210"})
KILLS = [
    Kill("teach", "stage 2", "call 7 of 90", 0, None),
    Kill("teach", "summary", "0.100 of 0.900 s", 0, None),
    Kill("parse", "maps", "call 1 of 5", 1, "a.png differs"),
]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "faults.json"
    record = Record(path, HERE)
    record.add_round(KILLS[:2], 3.0)
    record.add_fault(Outcome("full disk", "teach", 2, "Error: …", None), 1.5)
    record.add_round(KILLS[2:], 1.0)
    return path


def test_a_stopped_run_continues(file: Path) -> None:
    record = Record(file, THERE)
    assert record.has_round("teach", 0)
    assert not record.has_round("teach", 1)
    assert record.has_fault("full disk", "teach")
    assert not record.has_fault("full disk", "parse")
    record.add_round([Kill("teach", "start", "call 1 of 9", 1, None)], 1.0)
    assert [kill["origin"] for kill in Record(file).kills] == [0, 0, 0, 1]


def test_results_of_another_process_are_kept(file: Path) -> None:
    first, second = Record(file, HERE), Record(file, THERE)
    for record, number in ((first, 1), (second, 2)):
        record.add_round([Kill("teach", "start", "call 1 of 9", number, None)], 1.0)
    assert all(Record(file).has_round("teach", number) for number in range(3))
    assert [kill["origin"] for kill in Record(file).kills] == [0, 0, 0, 0, 1]


def test_kills_are_counted_by_stage(file: Path) -> None:
    assert kill_rows(Record(file)) == [
        *(["teach", stage, "0", "0", "0", "0"] for stage in TEACH_BEFORE_STAGE_2),
        ["teach", "stage 2", "1", "1", "0", "1"],
        *(["teach", stage, "0", "0", "0", "0"] for stage in ("writing the teacher", *LATE)),
        ["teach", "summary", "1", "0", "1", "1"],
        ["parse", "start", "0", "0", "0", "0"],
        ["parse", "maps", "1", "1", "0", "0"],
        *(["parse", stage, "0", "0", "0", "0"] for stage in ("list of maps", *AFTER_MAPS)),
        ["all", "", "3", "2", "1", "2"],
    ]


TEACH_BEFORE_STAGE_2 = (
    *("start", "reading crops", "CLIP features", "stage 1, identities", "stage 1, parts"),
    *("encoding the bank", "writing the bank"),
)
LATE, AFTER_MAPS = ("embeddings", "evaluation"), ("statistics", "sheet")


def test_problems_are_named(file: Path) -> None:
    assert Record(file).problems == ["parse, round 1: a.png differs"]
    assert fault_rows(Record(file)) == [["full disk", "teach", "2", "yes"]]


def test_the_page_gets_the_tables(file: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- faults -->\nold\n<!-- end of faults -->\nafter\n")
    record = Record(file)
    record.skip("full disk of the cache", "only root may mount a disk")
    update_page(record, page)
    text = page.read_text()
    assert text.startswith("before\n<!-- faults -->\n\nNot compared: ")
    assert text.endswith("\n<!-- end of faults -->\nafter\n")
    assert "| teach | stage 2 | 1 | 1 | 0 | 1 |" in text
    assert "Not tried: full disk of the cache (only root may mount a disk)." in text
    assert "4 results at commit 0123456789 in 0 minutes on a processor, 1 thread" in text
    assert "old" not in text


def test_the_page_shows_the_result_file_in_which_nothing_went_wrong() -> None:
    record = Record(FILE)
    shown = MARKED.search(PAGE.read_text(encoding="utf-8"))
    assert shown is not None
    assert shown[0] == shown[1] + render(record)
    assert record.problems == []
    assert len(record.kills) >= 200

"""Writing the page: refusals before the work, sections whose input is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from pivl_distill.errors import PivlError
from pivl_distill.report import write as module
from pivl_distill.report.blocks import LeftOutError, Text
from pivl_distill.report.context import ReportSettings
from pivl_distill.report.sections import SECTIONS, SectionBuilder
from pivl_distill.report.write import print_report, write_demo_report, write_report
from report_page import ReadPage


def refuse(context):
    raise LeftOutError("It needs something.")


def test_a_section_whose_input_is_missing_is_left_out_with_a_sentence(
    desk: Path, monkeypatch, capsys
) -> None:
    builders = (SectionBuilder("One", refuse), SectionBuilder("Two", lambda _: [Text("Here.")]))
    monkeypatch.setattr(module, "SECTIONS", builders)
    report = write_report([Path("runs/student-2")], Path("new/page.html"))
    assert report.left_out == {"One": "It needs something."}
    page = ReadPage.open(Path("new/page.html"))
    assert page.left_out == {"one": "It needs something."}
    assert "Here." in page.text
    print_report(report)
    printed = capsys.readouterr().out
    assert "new/page.html" in printed
    assert "left out: One" in printed


@pytest.mark.usefixtures("desk")
def test_nothing_is_computed_if_the_page_cannot_be_written(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(module, "ReportContext", None)
    (tmp_path / "file").touch()
    with pytest.raises(PivlError, match="file"):
        write_report([], tmp_path / "file" / "page.html")


def test_a_run_whose_data_is_gone_still_has_a_page(desk: Path) -> None:
    settings = ReportSettings(spec="market1501:/nowhere")
    report = write_report([Path("runs/student-2")], Path("page.html"), settings)
    page = ReadPage.open(report.path)
    assert any("no photographs" in text for text in page.text)
    assert any("/nowhere" in text for text in page.text)


def test_the_demo_writes_its_report_beside_the_runs(desk: Path, monkeypatch, caplog) -> None:
    monkeypatch.setattr(module, "SECTIONS", ())
    assert write_demo_report([Path("runs/student-2")]) == Path("runs/report.html")
    assert (desk / "runs" / "report.html").is_file()

    def missing() -> None:
        raise PivlError("Reports need plotly.")

    monkeypatch.setattr(module, "check_packages", missing)
    assert write_demo_report([Path("runs/student-2")]) is None
    assert "Reports need plotly." in caplog.text


@pytest.mark.usefixtures("desk")
def test_names_that_are_not_utf8_are_written_as_escapes(monkeypatch) -> None:
    builder = SectionBuilder("One", lambda _: [Text("caf\udce9")])
    monkeypatch.setattr(module, "SECTIONS", (builder,))
    report = write_report([Path("runs/student-2")], Path("page.html"))
    assert "caf\\udce9" in ReadPage.open(report.path).text


def test_sections_have_distinct_titles() -> None:
    titles = [builder.title for builder in SECTIONS]
    assert len(set(titles)) == len(titles)

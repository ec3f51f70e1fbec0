"""The HTML: self-contained, escaped, and exact in its numbers."""

from __future__ import annotations

import importlib.util
import re

import pytest

from pivl_distill.errors import PivlError
from pivl_distill.report import page as module
from pivl_distill.report.blocks import (
    Chart,
    ChartGrid,
    Heading,
    Picture,
    PictureLine,
    PictureRow,
    PictureRows,
    Section,
    Table,
    Text,
    number,
)
from pivl_distill.report.charts import curves
from pivl_distill.report.page import Page, render
from report_page import ReadPage

HOSTILE = "</script><script>alert(1)</script>"
PIXEL = "data:image/webp;base64,AAAA"


def render_blocks(*blocks) -> ReadPage:
    return ReadPage(render(Page([], [Section("One", blocks)], "No photographs.")))


def test_the_page_loads_nothing(report_file) -> None:
    html = report_file.read_text(encoding="utf-8")
    links = ReadPage(html).links
    assert all(link.startswith(("#", "data:")) for link in links)
    assert "default-src 'none'" in html


def test_names_from_files_cannot_become_code() -> None:
    chart = Chart(HOSTILE, curves({HOSTILE: ([1], [2])}, HOSTILE, "y"), HOSTILE)
    table = Table(HOSTILE, [HOSTILE], [[HOSTILE]])
    page = render(Page([], [Section(HOSTILE, [Text(HOSTILE), table, chart])], HOSTILE))
    assert "<script>alert(1)" not in page
    (drawn,) = ReadPage(page).charts.values()
    assert drawn["figure"]["data"][0]["name"] == HOSTILE


def test_numbers_are_exact_beside_their_text() -> None:
    table = Table("Scores", ["", "mAP"], [["a", number(1 / 3, "{:.1f}")]])
    (row,) = render_blocks(table).tables["Scores"].rows
    assert row == [("a", None), ("0.3", 1 / 3)]


def test_every_kind_of_block_is_shown() -> None:
    picture = Picture(PIXEL, "a person", 4, 8, "right", "0.91")
    rows = [PictureRow("query 1", [PictureLine([picture], "first network")], [0.5])]
    chart = Chart("Curve", curves({"a": ([1], [2])}, "x", "y"), "One point.")
    found = render_blocks(
        *(Heading("Part"), Text("Words.", note=True), ChartGrid([chart])),
        PictureRows("Strips", rows, ["AP"]),
    )
    words = {"Part", "Words.", "Curve", "One point.", "query 1", "first network", "0.91", "AP"}
    assert words <= set(found.text)
    assert len(found.charts) == 1
    assert [image["alt"] for image in found.images] == ["a person"]


def test_a_section_that_is_left_out_says_why() -> None:
    html = render(Page([], [Section("One", left_out="There is no data.")], ""))
    assert ReadPage(html).left_out == {"one": "There is no data."}


def test_ids_are_unique(report_file) -> None:
    html = re.sub(r"<script.*?</script>", "", report_file.read_text(encoding="utf-8"), flags=re.S)
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert len(ids) == len(set(ids))


def test_a_missing_package_is_named_with_the_extra(monkeypatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "plotly" else find(name)
    )
    with pytest.raises(PivlError, match=r"need plotly: `pip install 'pivl-distill\[report\]'`"):
        module.check_packages()


def test_the_page_is_small(report_file) -> None:
    assert report_file.stat().st_size < 15e6

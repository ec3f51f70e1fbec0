"""Cells keep the exact value beside its text."""

from __future__ import annotations

from pivl_distill.report.blocks import Cell, Section, number, share


def test_cells_keep_the_value_behind_their_text() -> None:
    assert number(1234567) == Cell("1,234,567", 1234567)
    assert number(-0.256, "{:.2f}") == Cell("−0.26", -0.256)
    assert share(0.94567, 2) == Cell("94.57 %", 0.94567)
    assert number(None) == share(None) == Cell("–")


def test_anchors_are_plain() -> None:
    assert Section("The bank: words & parts").anchor == "the-bank-words-parts"

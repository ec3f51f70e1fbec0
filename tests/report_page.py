"""Read the HTML of a report: its sections, tables, charts and pictures."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

VOID = {"meta", "link", "img", "input", "br"}


@dataclass
class ReadTable:
    """Rows of (text, value) by the text of their first cell; `columns` are the headings."""

    columns: list[str] = field(default_factory=list)
    rows: list[list[tuple[str, float | None]]] = field(default_factory=list)

    def row(self, name: str) -> dict[str, tuple[str, float | None]]:
        """Column → (text, value) of the only row whose first cell is `name`; later columns of the
        same heading are numbered."""
        (cells,) = [row for row in self.rows if row[0][0] == name]
        named: dict[str, tuple[str, float | None]] = {}
        for column, cell in zip(self.columns, cells, strict=True):
            number = sum(known.split(" #")[0] == column for known in named)
            named[f"{column} #{number + 1}" if number else column] = cell
        return named

    def values(self, column: str) -> list[float | None]:
        """Values of a column, in the order of rows."""
        place = self.columns.index(column)
        return [row[place][1] for row in self.rows]


class ReadPage(HTMLParser):
    """A parsed page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tables: dict[str, ReadTable] = {}
        self.left_out: dict[str, str] = {}
        self.images: list[dict[str, str]] = []
        self.links: list[str] = []
        self.charts: dict[str, Any] = {}
        self.text: list[str] = []
        self._section = self._chart = ""
        self._table: ReadTable | None = None
        self._cell: list[str] | None = None
        self._value: float | None = None
        self._tags: list[str] = []
        self.feed(html)
        self.close()

    @classmethod
    def open(cls, path: Path) -> ReadPage:
        return cls(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag not in VOID:
            self._tags.append(tag)
        self.links += [given[name] for name in ("src", "href") if name in given]
        if tag == "section":
            self._section = given["id"]
        elif tag == "table":
            self._table = self.tables[given["aria-label"]] = ReadTable()
        elif tag == "tr" and self._table is not None:
            self._table.rows.append([])
        elif tag in ("th", "td"):
            self._cell = []
            self._value = float(given["data-value"]) if "data-value" in given else None
        elif tag == "img":
            self.images.append(given)
        elif tag == "script" and "data-for" in given:
            self._chart = given["data-for"]

    def handle_endtag(self, tag: str) -> None:
        if tag in ("th", "td") and self._cell is not None and self._table is not None:
            self._table.rows[-1].append(("".join(self._cell).strip(), self._value))
            self._cell = None
        elif tag == "thead" and self._table is not None:
            self._table.columns = [text for text, _ in self._table.rows.pop()]
        elif tag == "table":
            self._table = None
        while self._tags and self._tags.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self._tags and self._tags[-1] == "script":
            if self._chart:
                self.charts[self._chart] = json.loads(data)
                self._chart = ""
            return
        if self._cell is not None:
            self._cell.append(data)
        if data.strip().startswith("Left out: "):
            self.left_out[self._section] = data.strip().removeprefix("Left out: ")
        if data.strip():
            self.text.append(data.strip())

"""What a section of the page consists of: texts, tables, charts and pictures.

Blocks hold values, not HTML; `page` renders them. A number is a `Cell` with the exact value beside
its text, so that tables sort by value and the page can be compared with the files of a run.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

Mark = Literal["right", "wrong", "query"]
"""Drawn as a frame in a colour, and as a sign."""

NONE_TEXT = "–"


@dataclass(frozen=True)
class Cell:
    """Text of a table cell, with the value it stands for; `mark` adds a sign and a colour."""

    text: str
    value: float | None = None
    mark: Mark | None = None


Row = Sequence[Cell | str]
"""Cells of a table; a text alone is a cell without a value."""


def number(value: float | None, form: str = "{:,}", mark: Mark | None = None) -> Cell:
    """Return the cell of a number in a format such as "{:.2f} ms"; a dash for None."""
    if value is None:
        return Cell(NONE_TEXT)
    return Cell(form.format(value).replace("-", "−"), value, mark)


def share(value: float | None, decimals: int = 1) -> Cell:
    """Return the cell of a share of 1, as a percentage."""
    return Cell(NONE_TEXT) if value is None else Cell(f"{100 * value:.{decimals}f} %", value)


def megabytes(size: int | None) -> Cell:
    """Return the cell of a number of bytes, in units of 10⁶."""
    return Cell(NONE_TEXT) if size is None else Cell(f"{size / 1e6:.2f} MB", size)


@dataclass(frozen=True)
class Text:
    """A paragraph; a note is set apart, for example to say what is left out."""

    text: str
    note: bool = False


@dataclass(frozen=True)
class Heading:
    """A heading inside a section."""

    text: str


@dataclass(frozen=True)
class Table:
    """Rows of cells; the first cell of a row is its heading. `folded` shows only the caption."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Row]
    folded: bool = False


@dataclass(frozen=True)
class Chart:
    """A Plotly figure.

    `description` says in words what it shows, for readers who do not see it; `table` has its
    numbers. `log_axes` are the axes that a button switches to a logarithmic scale.
    """

    title: str
    figure: Figure
    description: str
    table: Table | None = None
    log_axes: Sequence[Literal["xaxis", "yaxis"]] = ()
    height_px: int = 360


@dataclass(frozen=True)
class ChartGrid:
    """Charts of equal rank; beside each other where the page is wide enough."""

    charts: Sequence[Chart]


@dataclass(frozen=True)
class Picture:
    """An encoded image as a data URI; `alt` says in words what it shows."""

    uri: str
    alt: str
    width: int
    height: int
    mark: Mark | None = None
    caption: str = ""


@dataclass(frozen=True)
class PictureLine:
    """Pictures side by side, with a few words in front of them."""

    pictures: Sequence[Picture]
    label: str = ""


@dataclass(frozen=True)
class PictureRow:
    """Lines of pictures under a heading; `values` are what rows are sorted by."""

    heading: str
    lines: Sequence[PictureLine]
    values: Sequence[float] = ()


@dataclass(frozen=True)
class PictureRows:
    """Rows of pictures. With `orders`, the reader chooses by which value the rows are sorted.

    `orders` names each of the `values` of a row; the rows are given in the first order, ascending.
    `large` doubles the pictures, and puts rows beside each other where the page is wide enough.
    """

    caption: str
    rows: Sequence[PictureRow]
    orders: Sequence[str] = ()
    large: bool = False


Block = Text | Heading | Table | Chart | ChartGrid | PictureRows


@dataclass(frozen=True)
class Section:
    """A titled part of the page. `left_out` is the sentence that stands in place of blocks."""

    title: str
    blocks: Sequence[Block] = field(default=())
    left_out: str | None = None

    @property
    def anchor(self) -> str:
        """Id of the section on the page.

        >>> Section("What it looks at").anchor
        'what-it-looks-at'
        """
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")


class LeftOutError(Exception):
    """Raised by the builder of a section whose input is missing; the message is a sentence."""

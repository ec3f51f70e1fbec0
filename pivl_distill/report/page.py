"""Sections to one HTML file: no network, no other file, readable in light, dark and on paper.

Plotly's script is in the page, as the installed package bundles it. A content security policy
forbids the page to load anything.
"""

from __future__ import annotations

import functools
import importlib.resources
import importlib.util
import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, get_args

from pivl_distill import __version__
from pivl_distill.errors import PivlError
from pivl_distill.report import blocks
from pivl_distill.report.runs import ReportRun

if TYPE_CHECKING:
    from jinja2 import Environment

PACKAGES = ("jinja2", "plotly", "pytorch_grad_cam", "scipy", "sklearn")
SHOWN_ROWS = 6
"""Rows of pictures that are visible until the reader asks for all; `page.css` has it too."""
SIGNS: dict[blocks.Mark, tuple[str, str]] = {
    "right": ("✓", "right"),
    "wrong": ("✗", "wrong"),
    "query": ("?", "query"),
}
"""Mark → its sign, and the word that screen readers say."""


def check_packages() -> None:
    """Raise PivlError if a package of the extra `[report]` is missing."""
    if missing := [name for name in PACKAGES if importlib.util.find_spec(name) is None]:
        raise PivlError(
            f"Reports need {' and '.join(missing)}: `pip install 'pivl-distill[report]'`."
        )


@dataclass(frozen=True)
class Page:
    """What a page is about: its runs, its sections, and how photographs are shown."""

    runs: Sequence[ReportRun]
    sections: Sequence[blocks.Section]
    photographs: str


def render(page: Page) -> str:
    """Return the page as HTML."""
    from plotly.offline import get_plotlyjs

    return (
        _environment()
        .get_template("page.html")
        .render(
            page=page,
            made=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
            version=__version__,
            plotly=get_plotlyjs(),
            numbered=itertools.count(1).__next__,
        )
    )


@functools.cache
def _environment() -> Environment:
    """The templates, with the types of blocks as tests."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("pivl_distill.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"file": _template_file, "signs": SIGNS, "shown_rows": SHOWN_ROWS}
    environment.filters |= {
        "cell": _as_cell,
        "figure": _figure_json,
        "numeric_columns": _numeric_columns,
    }
    for kind in get_args(blocks.Block):
        environment.tests[kind.__name__.lower()] = _type_test(kind)
    return environment


def _type_test(kind: type) -> Callable[[object], bool]:
    return lambda value: isinstance(value, kind)


def _template_file(name: str) -> str:
    """The text of a style or script in `templates/`."""
    return (importlib.resources.files(__package__) / "templates" / name).read_text("utf-8")


def _as_cell(cell: blocks.Cell | str) -> blocks.Cell:
    return cell if isinstance(cell, blocks.Cell) else blocks.Cell(cell)


def _numeric_columns(table: blocks.Table) -> list[bool]:
    """Whether each column has numbers, which are aligned at the right."""
    columns = zip(*table.rows, strict=True) if table.rows else [()] * len(table.columns)
    return [any(_as_cell(cell).value is not None for cell in column) for column in columns]


def _figure_json(chart: blocks.Chart) -> dict[str, Any]:
    """What the page's script needs to draw a chart."""
    figure: dict[str, Any] = json.loads(chart.figure.to_json())
    return {"figure": figure, "logAxes": list(chart.log_axes)}

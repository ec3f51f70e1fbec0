"""Progress with rate and remaining time, and the tables of the command line.

Progress goes to standard error and results to standard output, so that results can be piped. On a
terminal, progress is one live line; elsewhere it is a plain line about every ten seconds, so that a
log file stays readable. `show_progress(False)` switches it off. Messages are log records, which
`log_handler` prints for the command line.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from typing import TypeVar

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from pivl_distill.errors import printable

T = TypeVar("T")

LOG_PERIOD_S = 10.0

WIDTH_IN_FILES = 160
"""Width in columns if the output is not a terminal, so that paths and tables are not wrapped."""

# Text is printed literally: the brackets of `pip install 'pivl-distill[trt]'` are not markup.
out = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else WIDTH_IN_FILES)
err = Console(stderr=True, highlight=False, markup=False)

_progress_shown = True


def show_progress(shown: bool) -> None:
    """Switch progress output on or off for this process; it is on by default."""
    global _progress_shown
    _progress_shown = shown


class _RateColumn(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.1f} {self.unit}/s", style="dim")


def track(
    items: Iterable[T],
    description: str,
    *,
    total: int | None = None,
    unit: str = "steps",
    quiet_s: float = 0.0,
) -> Iterator[T]:
    """Yield `items`; show how many are done, the rate in `unit`s per second and the time left.

    Args:
        items: what is worked on.
        description: label of the progress.
        total: number of items; default: their length, if they have one.
        unit: what an item is, in the plural.
        quiet_s: nothing is shown in the first `quiet_s` seconds, and then only the items left.
    """
    if not _progress_shown:
        yield from items
        return
    if total is None and isinstance(items, Sized):
        total = len(items)
    if quiet_s:
        items, start = iter(items), time.monotonic()
        for item in items:
            yield item
            total = None if total is None else total - 1
            if time.monotonic() - start > quiet_s:
                break
        else:
            return
    yield from (_bar if err.is_terminal else _lines)(items, description, total, unit)


def _bar(items: Iterable[T], description: str, total: int | None, unit: str) -> Iterator[T]:
    columns = (
        TextColumn("{task.description:<28}"),
        BarColumn(),
        MofNCompleteColumn(),
        _RateColumn(unit),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=err) as progress:
        yield from progress.track(items, total=total, description=description)


def _lines(items: Iterable[T], description: str, total: int | None, unit: str) -> Iterator[T]:
    start = last = time.monotonic()
    done = 0
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - last >= LOG_PERIOD_S:
            rate, last = done / (now - start), now
            left = "" if total is None else f", {(total - done) / rate:.0f} s left"
            err.print(f"{description}: {done}/{total or '?'} {unit}, {rate:,.1f}/s{left}")
    seconds = time.monotonic() - start
    err.print(f"{description}: {done} {unit} in {seconds:.1f} s")


@contextmanager
def watch(description: str) -> Iterator[Callable[[float], None]]:
    """Show the progress of work that calls the yielded function with its completed share, 0 to 1.

    The function may be called from any thread. A share lower than an earlier one is ignored.
    """
    if not _progress_shown:
        yield lambda share: None
        return
    with (_share_bar if err.is_terminal else _share_lines)(description) as show:
        yield show


@contextmanager
def _share_bar(description: str) -> Iterator[Callable[[float], None]]:
    columns = (
        TextColumn("{task.description:<28}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=err) as progress:
        task = progress.add_task(description, total=1.0)
        yield lambda share: progress.update(
            task, completed=max(share, progress.tasks[task].completed)
        )


@contextmanager
def _share_lines(description: str) -> Iterator[Callable[[float], None]]:
    start = last = time.monotonic()
    most = 0.0

    def show(share: float) -> None:
        nonlocal last, most
        now, most = time.monotonic(), max(share, most)
        if now - last >= LOG_PERIOD_S and most > 0:
            last = now
            err.print(f"{description}: {most:.0%}, {(now - start) * (1 / most - 1):.0f} s left")

    yield show
    err.print(f"{description}: {time.monotonic() - start:.1f} s")


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a result table; the first column is left-aligned, the others right-aligned."""
    grid = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    for number, column in enumerate(columns):
        grid.add_column(column, justify="right" if number else "left")
    for row in rows:
        grid.add_row(*(Text(printable(str(cell))) for cell in row))
    out.print(grid)


def summary(title: str, rows: Mapping[str, object]) -> None:
    """Print name–value pairs under a title, one per line."""
    grid = Table(title=title, title_justify="left", title_style="bold", box=None)
    grid.show_header = False
    grid.add_column(style="dim")
    grid.add_column()
    for name, value in rows.items():
        grid.add_row(name, Text(printable(str(value))))
    out.print(grid)


def format_bytes(count: float) -> str:
    """Format a number of bytes with a binary unit.

    >>> format_bytes(1536 * 1024)
    '1.5 MiB'
    """
    for unit in ("bytes", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.4g} {unit}"
        count /= 1024
    return f"{count:.4g} GiB"

"""`pivl-distill watch`: the curves of a run in the terminal, drawn anew when an epoch ends.

The curves are those of metrics.jsonl, so that a run can be watched from another terminal, or after
its end.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from pivl_distill.console import out
from pivl_distill.errors import PivlError
from pivl_distill.runs.metrics import read_metrics
from pivl_distill.runs.progress import is_running
from pivl_distill.runs.run import RUNS_DIR, Run
from pivl_distill.storage.filenames import CONFIG_FILE, METRICS_FILE, RUN_FILE
from pivl_distill.training.metrics import ACCURACY, FEATURE_SPREAD, GRADIENT_NORM

PERIOD_S = 1.0
"""Time between two looks at the file."""
MAX_WIDTH, CHART_ROWS = 120, 15
COLOURS = (12, 9, 10, 13, 14, 11, 4, 1, 2, 5, 6, 3)
"""Numbers of ANSI colours, bright ones first."""
SCORES = (ACCURACY, "val_mAP", "val_rank1", FEATURE_SPREAD)
"""Shares of 1, which are drawn in one chart."""
OTHERS = (GRADIENT_NORM, "learning_rate")
NOT_DRAWN = ("stage", "epoch", "crops_per_s")

Curves = dict[str, list[tuple[float, float]]]
"""Name → points (epoch, value)."""


def find_watched(path: Path | None) -> Path:
    """Return the folder of a teach or student run; default: the one that was started last.

    Raises PivlError if there is none, or if plotext is not installed.
    """
    if importlib.util.find_spec("plotext") is None:
        raise PivlError(
            "plotext, which draws, is not installed: pip install 'pivl-distill[watch]'."
        )
    if path is not None:
        if not (path / CONFIG_FILE).is_file():
            raise PivlError(f"{path} contains no run (no {CONFIG_FILE}).")
        return path
    runs = [run.path for kind in ("teach", "student") for run in Run.find_all(kind)]
    if not runs:
        raise PivlError(f"No teach or student run in {RUNS_DIR.resolve()}; name its folder.")
    return max(runs, key=lambda folder: (folder / CONFIG_FILE).stat().st_mtime_ns)


def watch_run(folder: Path, *, once: bool = False) -> None:
    """Draw the curves of a run until it ends; `once` draws them as they are, and returns."""
    if once or not out.is_terminal:
        out.print(draw(folder, read_metrics(folder), _size()))
        return
    seen = None
    with Live(console=out, auto_refresh=False) as live:
        while True:
            running, changed = is_running(folder), _stamp(folder)
            if changed != seen or not running:
                live.update(draw(folder, read_metrics(folder), _size()), refresh=True)
                seen = changed
            if not running:
                return
            time.sleep(PERIOD_S)


def draw(folder: Path, metrics: Sequence[Mapping[str, Any]], size: tuple[int, int]) -> Group:
    """Return the charts of the run's last stage, of at most `size` columns and rows, under a title.

    A terminal too low for all of them shows the first.
    """
    lines: list[RenderableType] = [Text(describe(folder, metrics), style="bold")]
    width, height = size
    if metrics:
        stage = [line for line in metrics if line["stage"] == metrics[-1]["stage"]]
        charts = [(title, curves) for title, curves in chart_curves(stage) if curves]
        fitting = max(1, min(len(charts), (height - 2) // CHART_ROWS))
        lines += [chart(title, curves, width, CHART_ROWS) for title, curves in charts[:fitting]]
    return Group(*lines)


def describe(folder: Path, metrics: Sequence[Mapping[str, Any]]) -> str:
    """Return one line: the run, whether it goes on, and the last epoch."""
    finished = (folder / RUN_FILE).is_file()
    state = "finished" if finished else "running" if is_running(folder) else "stopped"
    if not metrics:
        return f"{folder} ({state}): no epoch has ended yet"
    last = metrics[-1]
    rate = f", {last['crops_per_s']:,.0f} crops/s" if "crops_per_s" in last else ""
    return f"{folder} ({state}): stage {last['stage']}, epoch {last['epoch']}{rate}"


def chart_curves(metrics: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, Curves]]:
    """Yield title and curves of each chart: loss terms, shares, and the others one by one."""
    names = list(dict.fromkeys(name for line in metrics for name in line))
    terms = [name for name in names if name not in (*NOT_DRAWN, *SCORES, *OTHERS)]
    yield "loss terms", _curves(metrics, terms)
    yield "shares", _curves(metrics, [name for name in SCORES if name in names])
    for name in OTHERS:
        yield "", _curves(metrics, [name] if name in names else [])


def _curves(metrics: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Curves:
    return {
        name: [(float(line["epoch"]), float(line[name])) for line in metrics if name in line]
        for name in names
    }


def chart(title: str, curves: Curves, width: int, rows: int) -> Text:
    """Return one chart of `width` columns by `rows` lines; its title names curves and values."""
    import plotext

    plotext.terminal.limit(False, False)  # by the size of a terminal, which a file has not
    figure = plotext.figure
    figure.clear()
    figure.theme("simple")
    figure.legend(False)
    figure.plot_size(width, rows - 1)
    legend = Text(f"{title}  " if title else "", style="bold")
    for number, (name, points) in enumerate(curves.items()):
        colour = COLOURS[number % len(COLOURS)]
        epochs, values = zip(*points, strict=True)
        signal = figure.signal(
            list(epochs), list(values), marker=plotext.marker("hd", pixel=colour)
        )
        signal.lines()
        figure.draw(signal)
        legend.append(f"■ {name} {values[-1]:.4g}  ", style=f"not bold color({colour})")
    return Text("\n").join([legend, Text.from_ansi(str(figure.build()))])


def _size() -> tuple[int, int]:
    """Columns and rows to draw in; a file has no height."""
    height = out.height if out.is_terminal else 10 * CHART_ROWS
    return min(out.width, MAX_WIDTH), height


def _stamp(folder: Path) -> tuple[int, int, int]:
    """What changes when a line is added, or the window's size."""
    file = folder / METRICS_FILE
    return (file.stat().st_size if file.is_file() else 0, out.width, out.height)

"""A scatter plot of accuracy against latency. Needs matplotlib, an optional dependency."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pivl_distill.errors import PivlError
from pivl_distill.storage.files import write_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIZE_INCHES = (9, 5)
DPI = 120


@dataclass(frozen=True)
class Point:
    """One way to run a network: its median latency, and mAP in 0..1."""

    name: str
    milliseconds: float
    mAP: float  # noqa: N815


def check_matplotlib() -> None:
    """Raise PivlError if matplotlib is not installed."""
    if importlib.util.find_spec("matplotlib") is None:
        raise PivlError("Plots need matplotlib: `pip install 'pivl-distill[plot]'`.")


def plot_accuracy_against_latency(points: Sequence[Point], title: str, out: Path) -> None:
    """Write a PNG with latency on the x axis and mAP on the y axis: the best is top left."""
    buffer = io.BytesIO()
    draw(points, title).savefig(buffer, format="png", dpi=DPI)
    write_bytes(out, buffer.getvalue())


def draw(points: Sequence[Point], title: str) -> Figure:
    """The figure; each point has its own colour and an entry in the legend."""
    check_matplotlib()
    from matplotlib.figure import Figure

    figure = Figure(SIZE_INCHES, layout="constrained")
    axes = figure.subplots()
    for point in points:
        axes.plot(point.milliseconds, 100 * point.mAP, "o", markersize=9, label=point.name)
    axes.set(title=title, xlabel="median latency, ms", ylabel="mAP, %")
    axes.set_xlim(left=0)
    low, high = min(p.mAP for p in points), max(p.mAP for p in points)
    axes.set_ylim(100 * low - 0.5, 100 * high + 0.5)  # 0.1 points of mAP must look small
    axes.grid(color="0.9")
    axes.set_axisbelow(True)
    figure.legend(loc="outside right upper", frameon=False)
    return figure

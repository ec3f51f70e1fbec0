"""Charts that several sections use, in colours that are legible on white and on black.

Series differ by dash and symbol too, so that colour is never the only difference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

COLOURS = (
    *("#2f7ed8", "#c8641b", "#2e8b57", "#9a5bc9", "#c94a4a", "#1f8c9a", "#8a7a1f", "#7a828c"),
)
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
SYMBOLS = ("circle", "square", "diamond", "cross", "x", "triangle-up", "star", "pentagon")
MAX_POINTS = 400
"""Points of one curve; longer ones are thinned."""


def style(index: int) -> dict[str, Any]:
    """Return colour, dash and symbol of the series with this number, as Plotly's settings."""
    colour = COLOURS[index % len(COLOURS)]
    return {
        "line": {"color": colour, "dash": DASHES[index % len(DASHES)], "width": 2},
        "marker": {"color": colour, "symbol": SYMBOLS[index % len(SYMBOLS)], "size": 8},
    }


def thinned(count: int) -> np.ndarray:
    """Return at most `MAX_POINTS` evenly spaced positions below `count`, with both ends: int."""
    positions: np.ndarray = np.unique(np.linspace(0, count - 1, min(count, MAX_POINTS)).astype(int))
    return positions


def figure(x_title: str, y_title: str, **layout: Any) -> Figure:
    """Return an empty chart with titled axes; `layout` is Plotly's."""
    from plotly.graph_objects import Figure, Layout

    axis = {"showline": True, "automargin": True, "zeroline": False}
    base: dict[str, Any] = {
        "template": "none",
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "inherit", "size": 13},
        "margin": {"l": 60, "r": 15, "t": 10, "b": 50},
        "legend": {"orientation": "h", "yanchor": "bottom", "y": 1.02, "x": 0},
        "hoverlabel": {"bgcolor": "#222222", "font": {"color": "#ffffff"}},
        "xaxis": {"title": {"text": x_title}, **axis},
        "yaxis": {"title": {"text": y_title}, **axis},
    }
    chart = Figure(layout=Layout(base))
    chart.update_layout(**layout)
    return chart


def curves(
    series: Mapping[str, tuple[Sequence[float] | np.ndarray, Sequence[float] | np.ndarray]],
    x_title: str,
    y_title: str,
    *,
    markers: bool = False,
    hover: str = "%{y:.4g}",
) -> Figure:
    """Return a line chart. An empty series is not drawn, and no other one takes its colour.

    Args:
        series: name → x and y, of equal length.
        x_title: title of the x axis, with its unit.
        y_title: title of the y axis, with its unit.
        markers: whether points are marked.
        hover: Plotly's template of the text at the pointer.
    """
    from plotly.graph_objects import Scatter

    chart = figure(x_title, y_title, hovermode="x unified")
    several = sum(len(x) > 0 for x, _ in series.values()) > 1
    for index, (name, (x, y)) in enumerate(series.items()):
        if not len(x):
            continue
        kept = thinned(len(x))
        chart.add_trace(
            Scatter(
                x=np.asarray(x)[kept],
                y=np.asarray(y)[kept],
                name=name,
                mode="lines+markers" if markers else "lines",
                hovertemplate=hover,
                showlegend=several,
                **style(index),
            )
        )
    return chart


def heat_map(
    values: np.ndarray,
    columns: Sequence[str],
    rows: Sequence[str],
    *,
    colours: str = "Viridis",
    span: tuple[float, float] | None = None,
    titles: tuple[str, str] = ("", ""),
) -> Figure:
    """Return a heat map, with the first row on top; not-a-number is left blank.

    Args:
        values: float [R, C].
        columns: names of the C columns.
        rows: names of the R rows.
        colours: a colour scale of Plotly's.
        span: values of the first and the last colour; default: those of `values`.
        titles: of the x axis and of the y axis.
    """
    from plotly.graph_objects import Heatmap

    chart = figure(*titles)
    low, high = span or (None, None)
    chart.add_trace(
        Heatmap(
            z=np.round(values.astype(float), 4),
            x=list(columns),
            y=list(rows),
            zmin=low,
            zmax=high,
            colorscale=colours,
            colorbar={"thickness": 12, "outlinewidth": 0},
            hovertemplate="%{y}<br>%{x}<br>%{z:.3f}<extra></extra>",
        )
    )
    category = {"type": "category", "showgrid": False}
    chart.update_layout(xaxis=category, yaxis={**category, "autorange": "reversed"})
    return chart

"""The plot of accuracy against latency."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
from PIL import Image

from pivl_distill.app.chart import (
    DPI,
    SIZE_INCHES,
    Point,
    check_matplotlib,
    draw,
    plot_accuracy_against_latency,
)
from pivl_distill.errors import PivlError

POINTS = [Point("model.onnx, cpu", 1.0, 0.46), Point("PyTorch eager, cpu", 8.0, 0.44)]


def test_plot_is_a_readable_png(tmp_path):
    out = tmp_path / "new" / "plot.png"
    plot_accuracy_against_latency(POINTS, "A title", out)
    image = np.array(Image.open(out).convert("RGB"))
    assert image.shape == (SIZE_INCHES[1] * DPI, SIZE_INCHES[0] * DPI, 3)
    assert len(np.unique(image.reshape(-1, 3), axis=0)) > 10


@pytest.mark.parametrize("points", [POINTS, POINTS[:1], [POINTS[0]] * 12])
def test_every_point_is_drawn_at_its_values_and_labelled(points):
    figure = draw(points, "A title")
    (axes,) = figure.axes
    drawn = [(float(line.get_xdata()[0]), float(line.get_ydata()[0])) for line in axes.lines]
    assert drawn == [(point.milliseconds, 100 * point.mAP) for point in points]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [point.name for point in points]
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    assert all(left <= x <= right and bottom < y < top for x, y in drawn)
    assert axes.get_title() == "A title"


def test_without_matplotlib_the_error_names_the_extra(monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name: None if name == "matplotlib" else find_spec(name),
    )
    with pytest.raises(PivlError, match=r"pip install 'pivl-distill\[plot\]'"):
        check_matplotlib()

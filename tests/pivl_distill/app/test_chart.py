"""The picture of accuracy against latency."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageColor

from pivl_distill.app.chart import (
    BOTTOM,
    COLOURS,
    KEY,
    LEFT,
    RIGHT,
    SIZE,
    TOP,
    Dot,
    latency_chart,
    ticks,
)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 10, [0, 2, 4, 6, 8, 10]),
        (0, 0.31, [0, 0.1, 0.2, 0.3, 0.4]),
        (40.2, 43.9, [40, 41, 42, 43, 44]),
        (0, 230, [0, 50, 100, 150, 200, 250]),
    ],
)
def test_ticks_are_round_and_hold_all_values(low, high, expected):
    assert ticks(low, high) == pytest.approx(expected)


def test_equal_values_have_a_scale_too():
    scale = ticks(43.2, 43.2)
    assert scale[0] <= 43.2 <= scale[-1]
    assert len(scale) > 1


def test_every_dot_is_in_the_picture_the_better_one_further_up_and_left(tmp_path):
    out = tmp_path / "chart.png"
    dots = [Dot("quick", 1.0, 0.46), Dot("slow", 8.0, 0.44)]
    latency_chart(dots, "A title", out)
    image = np.array(Image.open(out).convert("RGB"))
    assert image.shape == (SIZE[1], SIZE[0], 3)
    centres = []
    for colour in COLOURS[:2]:
        rows, columns = np.nonzero((image == ImageColor.getrgb(colour)).all(axis=2))
        plot = columns < KEY - 10
        centres.append((columns[plot].mean(), rows[plot].mean()))
    (quick_x, quick_y), (slow_x, slow_y) = centres
    assert LEFT < quick_x < slow_x <= RIGHT
    assert TOP < quick_y < slow_y < BOTTOM

"""The canvas: colours and labels come from the same fills."""

from __future__ import annotations

import numpy as np
import pytest

from pivl_distill.data.synthetic.canvas import (
    Canvas,
    Paint,
    capsule,
    dome,
    ellipse,
    rectangle,
)

RED = Paint((200, 10, 20), label=5)
BLUE = Paint((10, 20, 200), label=9)


def test_later_fills_cover_earlier_ones_in_image_and_map() -> None:
    canvas = Canvas((20, 10))
    canvas.fill(rectangle(0j, 9 + 19j), RED)
    canvas.fill(rectangle(3 + 4j, 6 + 8j), BLUE)
    layers = canvas.layers()
    assert layers.labels[1, 1] == 5
    assert layers.labels[6, 5] == 9
    assert tuple(layers.colour[1, 1]) == RED.rgb
    assert tuple(layers.colour[6, 5]) == BLUE.rgb
    assert layers.cover[6, 5] == 255


def test_unpainted_is_empty_background() -> None:
    layers = Canvas((8, 6)).layers()
    for layer in (layers.colour, layers.cover, layers.labels):
        assert not layer.any()
    assert (layers.light == 128).all()


def test_light_scales_without_changing_the_label() -> None:
    canvas = Canvas((8, 8))
    canvas.fill(rectangle(0j, 8 + 8j), RED, light=0.5)
    layers = canvas.layers()
    assert layers.light[4, 4] == 64
    assert (layers.labels == 5).all()


def test_pattern_shows_the_accent_under_the_same_label() -> None:
    canvas = Canvas((8, 8), supersampling=1)
    canvas.fill(rectangle(0j, 8 + 8j), RED._replace(accent=BLUE.rgb))
    canvas.fill(rectangle(0j, 8 + 1j), BLUE)
    canvas.apply_pattern(np.arange(8)[None] < 4)
    layers = canvas.layers()
    assert tuple(layers.colour[6, 1]) == BLUE.rgb
    assert tuple(layers.colour[6, 6]) == RED.rgb
    assert set(np.unique(layers.labels[3:])) == {5}


def test_forget_labels_affects_only_earlier_fills() -> None:
    canvas = Canvas((8, 8))
    canvas.fill(rectangle(0j, 8 + 8j), RED)
    canvas.forget_labels()
    canvas.fill(rectangle(0j, 3 + 8j), RED)
    layers = canvas.layers()
    assert layers.labels[4, 1] == 5
    assert layers.labels[4, 6] == 0
    assert layers.cover[4, 6] == 255


def test_areas_of_the_outlines() -> None:
    shapes = [
        (ellipse(50 + 50j, 20, 10), np.pi * 200),
        (dome(50 + 50j, 20, 10), np.pi * 100),
        (capsule(30 + 50j, 70 + 50j, 8, 8), 40 * 16 + np.pi * 64),
        (rectangle(20 + 30j, 60 + 80j), 2000),
    ]
    for outline, area in shapes:
        canvas = Canvas((100, 100))
        canvas.fill(outline, RED)
        assert canvas.layers().cover.sum() / 255 == pytest.approx(area, rel=0.07)


def test_dome_is_the_upper_half() -> None:
    assert dome(5 + 5j, 2, 2).imag.max() == pytest.approx(5)


def test_too_many_surfaces_are_an_error() -> None:
    canvas, outline = Canvas((4, 4)), rectangle(0j, 1 + 1j)
    for red in range(255):
        canvas.fill(outline, Paint((red, 0, 0), 1))
    canvas.fill(outline, Paint((0, 0, 0), 1))  # known already
    with pytest.raises(ValueError, match="at most 255"):
        canvas.fill(outline, Paint((255, 0, 0), 1))

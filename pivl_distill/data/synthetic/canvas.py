"""One index canvas for the image and its label map, so that both agree by construction.

Every fill writes one index per pixel. An index stands for a paint (colour, label, optional second
colour of a pattern) and its brightness; lookup tables turn indices into the colour image and the
label map. Points of the image plane are complex numbers (x + iy, in pixels), which makes outlines
one-line formulas.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from pivl_distill.data.synthetic.people import Colour

_HALF = np.exp(1j * np.linspace(-np.pi / 2, np.pi / 2, 8))
_CIRCLE = np.exp(1j * np.linspace(0, 2 * np.pi, 20, endpoint=False))
_DOME = np.exp(-1j * np.linspace(0, np.pi, 12))
_SUBPIXEL_BITS = 4
_LIGHT_STEPS = 32  # brightness levels between 0 and 1
_FULL_LIGHT = 128  # stored value of light 1, which keeps the colour


class Paint(NamedTuple):
    """Colour and label of a surface; `accent` is the second colour of a pattern."""

    rgb: Colour
    label: int
    accent: Colour | None = None


class Layers(NamedTuple):
    """Output of a canvas, uint8: `colour` [H, W, 3] (0 where unpainted), `light` [H, W] (128 keeps
    the colour), `cover` [H, W] (255 where fully painted), `labels` [H, W]."""

    colour: np.ndarray
    light: np.ndarray
    cover: np.ndarray
    labels: np.ndarray


def capsule(a: complex, b: complex, radius_a: float, radius_b: float) -> np.ndarray:
    """Outline of a tapered limb from `a` to `b` with round ends."""
    along = (b - a) / abs(b - a) if abs(b - a) > 1e-6 else 1
    return np.concatenate((a - along * radius_a * _HALF, b + along * radius_b * _HALF))


def ellipse(centre: complex, radius_x: float, radius_y: float) -> np.ndarray:
    """Outline of an upright ellipse."""
    return centre + radius_x * _CIRCLE.real + 1j * radius_y * _CIRCLE.imag


def dome(centre: complex, radius_x: float, radius_y: float) -> np.ndarray:
    """Outline of the upper half of an upright ellipse."""
    return centre + radius_x * _DOME.real + 1j * radius_y * _DOME.imag


def rectangle(top_left: complex, bottom_right: complex) -> np.ndarray:
    """Outline of an upright rectangle."""
    top_right = complex(bottom_right.real, top_left.imag)
    bottom_left = complex(top_left.real, bottom_right.imag)
    return np.array((top_left, top_right, bottom_right, bottom_left))


class Canvas:
    """An image of up to 255 distinct surfaces, painted at `supersampling` times its size."""

    def __init__(self, size_hw: tuple[int, int], supersampling: int = 2) -> None:
        self.size_hw = size_hw
        self.supersampling = supersampling
        self._index = np.zeros([length * supersampling for length in size_hw], np.uint8)
        self._known: dict[tuple[Paint, int], int] = {}
        self._surfaces = np.zeros((256, 4), np.uint8)  # red, green, blue, light
        self._surfaces[0, 3] = _FULL_LIGHT
        self._labels = np.zeros(256, np.uint8)
        self._patterned = np.zeros(256, bool)
        self._used = 1

    def fill(self, outline: np.ndarray, paint: Paint, light: float = 1.0) -> None:
        """Paint the inside of a closed outline over the canvas; `light` 1 keeps the colour."""
        scale = self.supersampling * (1 << _SUBPIXEL_BITS)
        corners = np.rint(outline.view(np.float64).reshape(-1, 2) * scale).astype(np.int32)
        number = self._index_of(paint, round(light * _LIGHT_STEPS))
        cv2.fillPoly(self._index, [corners], number, shift=_SUBPIXEL_BITS)

    def apply_pattern(self, accented: np.ndarray) -> None:
        """Switch patterned surfaces to their accent colour where `accented` (broadcast) is true."""
        self._index += self._patterned[self._index] & accented

    def forget_labels(self) -> None:
        """Label everything painted so far as background."""
        self._labels[:] = 0
        self._known.clear()

    def layers(self) -> Layers:
        """Look up all indices and downsample the canvas to `size_hw`."""
        height, width = self.size_hw
        step = self.supersampling
        surface = self._surfaces.view(np.uint32)[:, 0][self._index]
        fine = surface.view(np.uint8).reshape(*self._index.shape, 4)
        coarse = cv2.resize(fine, (width, height), interpolation=cv2.INTER_AREA)
        painted = cv2.threshold(self._index, 0, 255, cv2.THRESH_BINARY)[1]
        cover = cv2.resize(painted, (width, height), interpolation=cv2.INTER_AREA)
        labels = self._labels[self._index[step // 2 :: step, step // 2 :: step]]
        return Layers(coarse[..., :3], coarse[..., 3], cover, labels)

    def _index_of(self, paint: Paint, light: int) -> int:
        """Return the index of `paint` under `light`; its accent colour has the next index."""
        key = paint, light
        if key not in self._known:
            colours = [paint.rgb] if paint.accent is None else [paint.rgb, paint.accent]
            last = self._used + len(colours)
            if last > 256:
                raise ValueError("a canvas can have at most 255 distinct surfaces")
            self._surfaces[self._used : last, :3] = colours
            self._surfaces[self._used : last, 3] = min(255, light * _FULL_LIGHT // _LIGHT_STEPS)
            self._labels[self._used : last] = paint.label
            self._patterned[self._used] = paint.accent is not None
            self._known[key] = self._used
            self._used = last
        return self._known[key]

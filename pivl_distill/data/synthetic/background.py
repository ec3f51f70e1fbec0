"""Background and foreground of a crop: wall, floor, clutter, shadow and occluders.

Left out on purpose: a consistent scene. Two crops of one camera share surfaces and viewpoint only,
like crops from different positions in one street.
"""

from __future__ import annotations

import cv2
import numpy as np

from pivl_distill.data.synthetic import labels
from pivl_distill.data.synthetic.cameras import Camera
from pivl_distill.data.synthetic.canvas import Canvas, Paint, capsule, ellipse, rectangle
from pivl_distill.data.synthetic.people import Colour

UNEVENNESS_HW = (16, 8)
"""Grid of the random brightness variation of a surface, the same for every image size."""


def draw_background(
    camera: Camera, rng: np.random.Generator, size_hw: tuple[int, int]
) -> np.ndarray:
    """Draw wall, floor and clutter: uint8 RGB [H, W, 3]."""
    height, width = size_hw
    wall, floor, *things = (np.array(surface) for surface in camera.palette)
    image = np.empty((height, width, 3), np.uint8)
    horizon = int(height * np.clip(camera.horizon + rng.normal(0, 0.06), 0.05, 0.9))
    image[:horizon] = wall
    image[horizon:] = floor
    for _ in range(rng.poisson(camera.clutter)):
        colour = things[rng.integers(len(things))] + rng.normal(0, 22) + rng.normal(0, 8, 3)
        _draw_clutter(image, horizon, _rgb(colour), rng)
    _draw_floor_lines(image, horizon, _rgb(floor * 0.8), rng)
    uneven = rng.normal(0, 12, UNEVENNESS_HW).astype(np.float32)
    smooth = cv2.resize(uneven, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.clip(image + smooth[..., None], 0, 255).astype(np.uint8)


def draw_shadow(image: np.ndarray, feet: complex, length: float, light: float) -> None:
    """Darken the floor opposite the light, in place; `feet` and `length` in pixels."""
    shade = np.zeros(image.shape[:2], np.float32)
    centre = (round(feet.real - 0.5 * light * length), round(feet.imag))
    axes = (round(length * (0.6 + 0.5 * abs(light))), max(1, round(0.16 * length)))
    cv2.ellipse(shade, centre, axes, 0, 0, 360, 0.45, -1)
    shade = cv2.blur(shade, (max(1, round(0.25 * length)),) * 2)
    np.multiply(image, 1 - shade[..., None], out=image, casting="unsafe")


def draw_occluder(canvas: Canvas, camera: Camera, rng: np.random.Generator) -> None:
    """Draw a box, a post or a bush in front of the person; it is background in the map."""
    height, width = canvas.size_hw
    tone = np.array(camera.palette[rng.integers(len(camera.palette))])
    paint = Paint(_rgb(tone * 0.7 + rng.integers(0, 70, 3)), labels.BACKGROUND)
    top, left = height * rng.uniform(0.55, 0.85), width * rng.uniform(-0.1, 0.8)
    kind = rng.choice(("box", "post", "bush"))
    if kind == "box":
        right = left + width * rng.uniform(0.5, 1.2)
        canvas.fill(rectangle(complex(left, top), complex(right, height)), paint)
        edge = top + 0.04 * height
        canvas.fill(rectangle(complex(left, top), complex(right, edge)), paint, 1.25)
    elif kind == "post":
        thick = width * rng.uniform(0.06, 0.14)
        canvas.fill(capsule(complex(left, -thick), complex(left, height), thick, thick), paint, 0.8)
        lit = thick * 0.5
        canvas.fill(capsule(complex(left, -thick), complex(left, height), lit, lit), paint)
    else:
        for _ in range(7):
            spot = complex(left + width * rng.normal(0, 0.16), top + height * rng.uniform(0, 0.25))
            leaf = width * rng.uniform(0.1, 0.22)
            canvas.fill(ellipse(spot, leaf, leaf), paint, rng.uniform(0.7, 1.15))


def _draw_clutter(
    image: np.ndarray, horizon: int, colour: Colour, rng: np.random.Generator
) -> None:
    """Draw a block or ellipse on the floor or on the wall, such as a door, a window or a tree."""
    height, width = image.shape[:2]
    left, wide = int(width * rng.uniform(-0.4, 0.95)), int(width * rng.uniform(0.12, 0.8))
    tall = int(height * rng.uniform(0.06, 0.4))
    hanging = rng.random() < 0.45
    bottom = (
        int(horizon * rng.uniform(0.3, 0.9)) if hanging
        else horizon + int((height - horizon) * rng.uniform(0, 0.35))
    )  # fmt: skip
    if rng.random() < 0.25:
        centre, axes = (left + wide // 2, bottom - tall // 2), (max(1, wide // 2), max(1, tall))
        cv2.ellipse(image, centre, axes, 0, 0, 360, colour, -1)
    else:
        cv2.rectangle(image, (left, bottom - tall), (left + wide, bottom), colour, -1)
        darker = _rgb(np.array(colour) * 0.75)
        cv2.rectangle(image, (left, bottom - tall), (left + wide, bottom), darker, 1)


def _draw_floor_lines(
    image: np.ndarray, horizon: int, colour: Colour, rng: np.random.Generator
) -> None:
    """Draw lines towards the horizon, such as kerbs."""
    height, width = image.shape[:2]
    vanishing = int(width * rng.uniform(-1, 2))
    for foot in rng.uniform(-1, 2, 3) * width:
        cv2.line(image, (vanishing, horizon), (int(foot), height), colour, max(1, height // 128))


def _rgb(values: np.ndarray) -> Colour:
    red, green, blue = np.clip(values, 0, 255).astype(int).tolist()
    return red, green, blue

"""A picture of accuracy against latency: one dot for each way to run a network."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from pivl_distill.storage.files import write_bytes

SIZE = (900, 560)
LEFT, TOP, RIGHT, BOTTOM, KEY = 70, 60, 620, 480, 650
INK, GRID = (40, 40, 40), (225, 225, 225)
COLOURS = ("#1f77b4", "#d6601e", "#2c8c3c", "#9650aa", "#b4283c", "#5a5a5a")
_RADIUS_PX = 7


@dataclass(frozen=True)
class Dot:
    """One way to run a network: its median latency and the mAP it reaches, a share of 1."""

    name: str
    milliseconds: float
    mAP: float  # noqa: N815


def latency_chart(dots: Sequence[Dot], title: str, out: Path) -> None:
    """Write a PNG with latency to the right and mAP upwards; fast and good is top left."""
    image = Image.new("RGB", SIZE, "white")
    draw = ImageDraw.Draw(image)
    points = [100 * dot.mAP for dot in dots]
    x_ticks = ticks(0, 1.05 * max(dot.milliseconds for dot in dots))
    y_ticks = ticks(min(points) - 0.5, max(points) + 0.5)  # a tenth of a point should look small
    draw.text((LEFT, 18), title, INK, _font(20))
    for tick in x_ticks:
        x = _place(tick, x_ticks, LEFT, RIGHT)
        draw.line((x, TOP, x, BOTTOM), GRID)
        draw.text((x, BOTTOM + 8), f"{tick:g}", INK, _font(15), anchor="ma")
    for tick in y_ticks:
        y = _place(tick, y_ticks, BOTTOM, TOP)
        draw.line((LEFT, y, RIGHT, y), GRID)
        draw.text((LEFT - 10, y), f"{tick:g}", INK, _font(15), anchor="rm")
    draw.text((RIGHT, BOTTOM + 34), "milliseconds, median", INK, _font(15), anchor="ra")
    draw.text((14, TOP - 10), "mAP, %", INK, _font(15), anchor="ld")
    for number, dot in enumerate(dots):
        colour = COLOURS[number % len(COLOURS)]
        x = _place(dot.milliseconds, x_ticks, LEFT, RIGHT)
        y = _place(100 * dot.mAP, y_ticks, BOTTOM, TOP)
        draw.circle((x, y), _RADIUS_PX, colour)
        row = TOP + 16 + 24 * number
        draw.circle((KEY, row), _RADIUS_PX, colour)
        draw.text((KEY + 16, row), dot.name, INK, _font(15), anchor="lm")
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    write_bytes(out, buffer.getvalue())


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """About `wanted` round numbers, evenly spaced, from at most `low` to at least `high`."""
    span = max(high - low, 0.1)
    power = 10.0 ** math.floor(math.log10(span / wanted))
    step = power * next(s for s in (1, 2, 5, 10) if s * power >= span / wanted)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(step * n, 10) for n in range(first, max(last, first + 1) + 1)]


def _place(value: float, scale: Sequence[float], start: float, stop: float) -> float:
    return start + (value - scale[0]) / (scale[-1] - scale[0]) * (stop - start)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)

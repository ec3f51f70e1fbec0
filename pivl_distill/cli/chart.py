"""A picture of accuracy against latency: one dot for each way to run a network."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from pivl_distill.files import write_bytes

SIZE = (900, 560)
LEFT, TOP, RIGHT, BOTTOM = 90, 60, 870, 480
INK, GRID = (40, 40, 40), (225, 225, 225)
COLOURS = [
    (31, 119, 180),
    (214, 96, 30),
    (44, 140, 60),
    (150, 80, 170),
    (180, 40, 60),
    (90, 90, 90),
]
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
    x_ticks = ticks(0, max(dot.milliseconds for dot in dots))
    y_ticks = ticks(100 * min(dot.mAP for dot in dots), 100 * max(dot.mAP for dot in dots))
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
        key = TOP + 16 + 22 * number
        draw.circle((RIGHT - 250, key), _RADIUS_PX, colour)
        draw.text((RIGHT - 234, key), dot.name, INK, _font(15), anchor="lm")
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

"""Head, hair, hat, sunglasses and scarf.

The head is an ellipse of hair with a face on its front; hat, glasses and scarf are painted over it,
so that each view shows the right parts. The neck is labelled face, as parsers do.
"""

from __future__ import annotations

from typing import NamedTuple

from pivl_distill.data.synthetic import labels
from pivl_distill.data.synthetic.canvas import Paint, capsule, dome, ellipse
from pivl_distill.data.synthetic.figure import Figure
from pivl_distill.data.synthetic.people import HAIR_COLOURS, PALETTE, SKINS, Colour

_DARK: Colour = (22, 22, 26)
_HAIR_BEHIND = 0.35
"""Above this `facing`, long hair is behind the shoulders."""


class _Ball(NamedTuple):
    """The head in pixels; `ahead` is the horizontal offset of its front."""

    centre: complex
    width: float
    height: float
    ahead: float


def _ball(figure: Figure) -> _Ball:
    bones = figure.bones
    size = bones.height_px * figure.person.head
    width = 0.053 * size * (1 + 0.12 * abs(bones.turn))
    return _Ball(bones.head.at, width, 0.072 * size, bones.turn * width)


def draw_head(figure: Figure) -> None:
    """Paint neck, hair, face, glasses and hat."""
    canvas, person, bones = figure.canvas, figure.person, figure.bones
    ball = _ball(figure)
    skin = Paint(SKINS[person.skin], labels.FACE)
    hair = Paint(HAIR_COLOURS[person.hair], labels.HAIR)
    long_hair = person.hair_length == "long"
    if long_hair and -0.3 < bones.facing <= _HAIR_BEHIND:
        _draw_long_hair(figure, ball, hair)
    if person.scarf is None:
        throat = ball.centre + complex(0.1 * ball.ahead, 0.5 * ball.height)
        end = bones.neck.at + complex(0.1 * ball.ahead, 0.012 * bones.height_px)
        canvas.fill(capsule(throat, end, 0.55 * ball.width, 0.7 * ball.width), skin, 0.82)
    if person.hair_length == "bald":
        canvas.fill(ellipse(ball.centre, ball.width, ball.height), skin, 0.88)
    else:
        canvas.fill(ellipse(ball.centre, 1.1 * ball.width, 1.06 * ball.height), hair, 0.85)
        shine = ball.centre + complex(0.3 * figure.light * ball.width, -0.35 * ball.height)
        canvas.fill(ellipse(shine, 0.7 * ball.width, 0.45 * ball.height), hair, 1.1)
    if long_hair and bones.facing <= -0.3:
        _draw_long_hair(figure, ball, hair)
    if bones.facing > -0.35:
        _draw_face(figure, ball, skin)
    if person.hat:
        _draw_hat(figure, ball, Paint(PALETTE[person.hat], labels.HAT))


def draw_hair_behind(figure: Figure) -> None:
    """Paint long hair of a person who faces the camera; the trunk is painted over it."""
    if figure.person.hair_length == "long" and figure.bones.facing > _HAIR_BEHIND:
        hair = Paint(HAIR_COLOURS[figure.person.hair], labels.HAIR)
        _draw_long_hair(figure, _ball(figure), hair)


def _draw_face(figure: Figure, ball: _Ball, skin: Paint) -> None:
    canvas, bones = figure.canvas, figure.bones
    middle = ball.centre + complex(0.42 * ball.ahead, 0.16 * ball.height)
    width = ball.width * (0.62 + 0.22 * max(0.0, bones.facing))
    canvas.fill(ellipse(middle, width, 0.82 * ball.height), skin, 0.95)
    lit = middle + complex(0.3 * figure.light * width, 0)
    canvas.fill(ellipse(lit, 0.6 * width, 0.6 * ball.height), skin, 1.05)
    eyes = middle + complex(0.22 * ball.ahead, -0.12 * ball.height)
    apart = 0.42 * ball.width * max(0.0, bones.facing)
    if figure.person.sunglasses:
        reach = apart + 0.3 * ball.width
        glasses = capsule(eyes - reach, eyes + reach, 0.2 * ball.height, 0.2 * ball.height)
        canvas.fill(glasses, Paint(_DARK, labels.SUNGLASSES))
    elif bones.facing > 0.2:
        dark = Paint(_DARK, labels.FACE)
        for eye in (eyes - apart, eyes + apart):
            canvas.fill(ellipse(eye, 0.13 * ball.width, 0.08 * ball.height), dark)
        mouth = middle + complex(0.4 * ball.ahead, 0.45 * ball.height)
        canvas.fill(ellipse(mouth, 0.26 * ball.width, 0.06 * ball.height), skin, 0.6)


def _draw_long_hair(figure: Figure, ball: _Ball, hair: Paint) -> None:
    """Paint long hair at the back of the head, down to the shoulder blades."""
    back = ball.centre - 0.45 * ball.ahead
    length = 0.13 * figure.bones.height_px
    ends = back + complex(-0.2 * ball.ahead, length)
    figure.canvas.fill(capsule(back, ends, 1.02 * ball.width, 0.92 * ball.width), hair, 0.85)
    figure.canvas.fill(capsule(back, ends, 0.6 * ball.width, 0.5 * ball.width), hair, 1.05)


def _draw_hat(figure: Figure, ball: _Ball, paint: Paint) -> None:
    """Paint a cap with a brim, or a woollen hat."""
    canvas, person = figure.canvas, figure.person
    low = 0.22 if person.brim else 0.05
    rim = ball.centre - 1j * low * ball.height
    canvas.fill(dome(rim, 1.22 * ball.width, (1.0 - low + 0.2) * ball.height), paint, 0.9)
    lit = rim + complex(0.3 * figure.light * ball.width, -0.25 * ball.height)
    canvas.fill(dome(lit, 0.8 * ball.width, 0.6 * ball.height), paint, 1.08)
    if person.brim and figure.bones.facing > -0.4:
        spread = ball.width * (0.35 + 0.65 * max(0.0, figure.bones.facing))
        tip = rim + complex(1.15 * ball.ahead, 0.12 * ball.height)
        outline = capsule(tip - spread, tip + spread, 0.13 * ball.height, 0.13 * ball.height)
        canvas.fill(outline, paint, 0.75)
    elif not person.brim:
        fold = capsule(
            rim - 1.15 * ball.width, rim + 1.15 * ball.width, 0.14 * ball.height, 0.14 * ball.height
        )
        canvas.fill(fold, paint, 0.82)


def draw_scarf(figure: Figure) -> None:
    """Paint a scarf around the neck, with a loose end on the chest."""
    if figure.person.scarf is None:
        return
    canvas, bones = figure.canvas, figure.bones
    paint = Paint(PALETTE[figure.person.scarf], labels.SCARF)
    unit = bones.height_px
    neck = bones.neck.at + 0.004j * unit
    canvas.fill(ellipse(neck, 0.066 * unit, 0.04 * unit), paint, 0.85)
    canvas.fill(ellipse(neck - 0.01j * unit, 0.05 * unit, 0.022 * unit), paint, 1.05)
    if bones.facing > -0.2:
        start = neck + complex(0.055 * bones.turn + 0.02 * bones.facing, 0.02) * unit
        canvas.fill(capsule(start, start + 0.13j * unit, 0.022 * unit, 0.024 * unit), paint, 0.95)

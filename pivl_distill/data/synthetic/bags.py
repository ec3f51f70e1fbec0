"""Backpacks, shoulder bags and hand bags: visible in the image, background in the map.

LIP has no label for bags, so its parsers label them background too.
"""

from __future__ import annotations

import numpy as np

from pivl_distill.data.synthetic import labels
from pivl_distill.data.synthetic.canvas import Paint, capsule, ellipse
from pivl_distill.data.synthetic.figure import Figure
from pivl_distill.data.synthetic.people import PALETTE


def draw_bag(figure: Figure, *, in_front: bool) -> None:
    """Paint the part of the bag behind the body, or the part in front of it."""
    paint = Paint(PALETTE[figure.person.bag_colour], labels.BACKGROUND)
    if figure.person.bag == "backpack":
        _draw_backpack(figure, paint, in_front)
    elif figure.person.bag == "shoulder" and in_front:
        _draw_shoulder_bag(figure, paint)
    elif figure.person.bag == "hand" and in_front == (figure.bones.facing > 0):
        _draw_hand_bag(figure, paint)


def _draw_backpack(figure: Figure, paint: Paint, in_front: bool) -> None:
    canvas, bones = figure.canvas, figure.bones
    unit = bones.height_px
    from_behind = bones.facing < 0.2
    if in_front == from_behind:
        back = bones.chest.at + 0.42 * (bones.hips.at - bones.chest.at) - 0.085 * unit * bones.turn
        width = (0.05 + 0.04 * abs(bones.facing)) * unit
        top, bottom = back - 0.06j * unit, back + 0.06j * unit
        canvas.fill(capsule(top, bottom, width, 1.1 * width), paint, 0.85)
        canvas.fill(capsule(top, bottom, 0.65 * width, 0.7 * width), paint, 1.05)
    elif in_front:
        for across in (-0.52, 0.52):
            strap = figure.trunk_point(np.array((-0.05, 0.55)), across * bones.facing)
            start, end = strap.tolist()
            canvas.fill(capsule(start, end, 0.011 * unit, 0.011 * unit), paint)


def _draw_shoulder_bag(figure: Figure, paint: Paint) -> None:
    canvas, bones = figure.canvas, figure.bones
    unit = bones.height_px
    start = bones.right.shoulder.at - 0.03j * unit
    bag = bones.left.hip.at + complex(0.07 * bones.facing, 0.03) * unit
    canvas.fill(capsule(start, bag, 0.009 * unit, 0.009 * unit), paint, 0.8)
    canvas.fill(ellipse(bag, 0.06 * unit, 0.05 * unit), paint, 0.85)
    canvas.fill(ellipse(bag, 0.04 * unit, 0.03 * unit), paint, 1.05)


def _draw_hand_bag(figure: Figure, paint: Paint) -> None:
    canvas, unit = figure.canvas, figure.bones.height_px
    hand = figure.bones.right.hand.at
    corners = np.array((-0.035 + 0.02j, 0.035 + 0.02j, 0.055 + 0.12j, -0.055 + 0.12j))
    canvas.fill(hand + corners * unit, paint, 0.85)
    canvas.fill(hand + 0.02j * unit + 0.7 * corners * unit, paint, 1.05)

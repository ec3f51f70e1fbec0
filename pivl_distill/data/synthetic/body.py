"""Arms, legs and trunk with their clothes, painted from far to near.

Left out on purpose: cloth simulation. Clothes are widened body shapes that differ in colour,
pattern, length and outline.
"""

from __future__ import annotations

import numpy as np

from pivl_distill.data.synthetic import labels
from pivl_distill.data.synthetic.bags import draw_bag
from pivl_distill.data.synthetic.canvas import Paint, ellipse
from pivl_distill.data.synthetic.figure import Figure, between
from pivl_distill.data.synthetic.head import draw_hair_behind, draw_head, draw_scarf
from pivl_distill.data.synthetic.people import BARE_LEGGED, PALETTE, SKINS, Person
from pivl_distill.data.synthetic.skeleton import Side

GRID_PATTERNS = frozenset(("hstripe", "vstripe", "plaid", "dots"))


def draw_person(figure: Figure) -> None:
    """Paint the whole person, from far to near."""
    bones = figure.bones
    sides = [(bones.left, 0), (bones.right, 1)]
    draw_bag(figure, in_front=False)
    arms = sorted(sides, key=lambda side: side[0].wrist.depth)
    behind = [arm for arm in arms if _behind_trunk(figure, arm[0])]
    for side, number in behind:
        _draw_arm(figure, side, number)
    for side, number in sorted(sides, key=lambda side: side[0].knee.depth + side[0].ankle.depth):
        _draw_leg(figure, side, number)
    draw_hair_behind(figure)
    _draw_trunk(figure)
    draw_scarf(figure)
    draw_head(figure)
    for side, number in arms:
        if (side, number) not in behind:
            _draw_arm(figure, side, number)
    draw_bag(figure, in_front=True)


def _behind_trunk(figure: Figure, side: Side) -> bool:
    middle = (side.elbow.depth + side.wrist.depth + side.shoulder.depth) / 3
    return middle < figure.bones.hips.depth - 0.015 * figure.bones.height_px


def _top_paint(person: Person) -> Paint:
    """Return the paint of the garment on trunk and upper arms, without the coat."""
    if person.upper is None:
        label = labels.DRESS if person.lower == "dress" else labels.JUMPSUIT
        return Paint(PALETTE[person.lower_colour], label)
    patterned = person.pattern in GRID_PATTERNS
    return Paint(PALETTE[person.upper], labels.UPPER, PALETTE[person.accent] if patterned else None)


def _draw_leg(figure: Figure, side: Side, number: int) -> None:
    person = figure.person
    if person.lower in BARE_LEGGED:
        skin = Paint(SKINS[person.skin], (labels.LEFT_LEG, labels.RIGHT_LEG)[number])
        figure.limb(side.hip, side.knee, 0.066, 0.045, skin)
        figure.limb(side.knee, side.ankle, 0.044, 0.027, skin)
        if person.socks:
            sock = Paint(PALETTE[person.socks], labels.SOCKS)
            figure.limb(between(side.knee, side.ankle, 0.4), side.ankle, 0.04, 0.031, sock)
    shoe = Paint(PALETTE[person.shoes], (labels.LEFT_SHOE, labels.RIGHT_SHOE)[number])
    figure.limb(side.ankle, side.heel, 0.032, 0.033, shoe)
    figure.limb(side.heel, side.toe, 0.033, 0.029, shoe)
    if person.lower in ("pants", "jumpsuit"):
        label = labels.PANTS if person.lower == "pants" else labels.JUMPSUIT
        cloth = Paint(PALETTE[person.lower_colour], label)
        figure.limb(side.hip, side.knee, 0.073, 0.056, cloth)
        figure.limb(side.knee, between(side.knee, side.ankle, 0.97), 0.056, 0.044, cloth)
    elif person.lower == "shorts":
        cloth = Paint(PALETTE[person.lower_colour], labels.PANTS)
        figure.limb(side.hip, between(side.hip, side.knee, 0.82), 0.076, 0.068, cloth)


def _draw_arm(figure: Figure, side: Side, number: int) -> None:
    person = figure.person
    skin = Paint(SKINS[person.skin], (labels.LEFT_ARM, labels.RIGHT_ARM)[number])
    hand = Paint(PALETTE[person.gloves], labels.GLOVE) if person.gloves else skin
    palm = between(side.wrist, side.hand, -0.3)
    hand_in_front = side.hand.depth > side.elbow.depth
    if not hand_in_front:
        figure.limb(palm, side.hand, 0.026, 0.027, hand)
    if not person.covered_arms:
        figure.limb(side.shoulder, side.elbow, 0.038, 0.032, skin)
        figure.limb(side.elbow, side.wrist, 0.031, 0.024, skin)
    _draw_sleeve(figure, side)
    if hand_in_front:
        figure.limb(palm, side.hand, 0.026, 0.027, hand)


def _draw_sleeve(figure: Figure, side: Side) -> None:
    person = figure.person
    top = Paint(PALETTE[person.coat], labels.COAT) if person.coat else _top_paint(person)
    if not person.covered_arms:
        figure.limb(side.shoulder, between(side.shoulder, side.elbow, 0.6), 0.046, 0.045, top)
        return
    thick = 0.006 if person.coat else 0.0
    figure.limb(side.shoulder, side.elbow, 0.046 + thick, 0.040 + thick, top)
    cuff = between(side.elbow, side.wrist, 0.95)
    figure.limb(side.elbow, cuff, 0.040 + thick, 0.032 + thick, top)


def _draw_trunk(figure: Figure) -> None:
    person, bones = figure.person, figure.bones
    top = _top_paint(person)
    cloth = PALETTE[person.lower_colour]
    if person.lower in ("pants", "shorts"):
        figure.trunk(Paint(cloth, labels.PANTS), (0.85, 1.22))
    elif person.lower == "jumpsuit":
        figure.trunk(top, (0.85, 1.22))
    else:
        _draw_skirt(figure, top if person.lower == "dress" else Paint(cloth, labels.SKIRT))
    figure.trunk(top, (-0.1, 0.95 if person.lower in ("skirt", "dress", "jumpsuit") else 1.08))
    if person.pattern == "logo" and bones.facing > 0.25:
        middle = complex(figure.trunk_point(np.array(0.3), figure.front(0.3)))
        size = 0.05 * bones.height_px
        logo = Paint(PALETTE[person.accent], labels.UPPER)
        figure.canvas.fill(ellipse(middle, size * bones.facing, size * 0.8), logo)
    if person.coat:
        _draw_coat(figure, Paint(PALETTE[person.coat], labels.COAT))


def _draw_skirt(figure: Figure, paint: Paint) -> None:
    """Paint a skirt from the waist to just above the knees, as wide as both legs."""
    left, right = (between(side.hip, side.knee, 0.8) for side in figure.bones[:2])
    margin = 0.075 * figure.bones.height_px * figure.person.girth
    hem_y = max(left.at.imag, right.at.imag)
    edges = sorted((left.at.real, right.at.real))
    for light, inset in ((0.8, 0.0), (1.0, 0.45)):
        waist = figure.trunk_outline((0.7, 1.0), inset - 1, 1 - inset)
        hem = (
            complex(edges[1] + (1 - inset) * margin, hem_y),
            complex(edges[0] - (1 - inset) * margin, hem_y),
        )
        count = len(waist) // 2
        outline = np.concatenate((waist[:count], hem[::-1], waist[count:]))
        figure.canvas.fill(outline, paint, light)


def _draw_coat(figure: Figure, paint: Paint) -> None:
    """Paint a coat down to the thighs; seen from the front, it is open."""
    levels, loose, hem = (-0.1, 1.45), 1.07, 1.08
    if figure.bones.facing < 0.1:
        figure.trunk(paint, levels, loose, hem)
        return
    middle, gap = figure.front(0.5), 0.3 * figure.bones.facing
    for left, right in ((-loose, middle - gap), (middle + gap, loose)):
        if right - left > 0.05:
            figure.canvas.fill(figure.trunk_outline(levels, left, right, hem), paint, 0.84)
            narrow = 0.2 * (right - left)
            inner = figure.trunk_outline(levels, left + narrow, right - narrow, hem)
            figure.canvas.fill(inner, paint)

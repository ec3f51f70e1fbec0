"""A posed person on a canvas, and the shapes that bodies and clothes consist of.

Radii and widths are in body heights, so a figure looks the same at any image size. A shape is
darker at its edges and lighter inside, shifted towards the light.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pivl_distill.data.synthetic.canvas import Canvas, Paint, capsule
from pivl_distill.data.synthetic.people import Person
from pivl_distill.data.synthetic.skeleton import Joint, Skeleton

# Cross-sections of the trunk: level (0 chest, 1 hips), half width, half depth.
_LEVELS = np.array((-0.12, -0.06, 0.0, 0.08, 0.3, 0.65, 1.0, 1.2, 1.7))
_WIDTHS = np.array((0.034, 0.075, 0.112, 0.122, 0.118, 0.102, 0.112, 0.118, 0.118))
_DEPTHS = np.array((0.034, 0.045, 0.060, 0.070, 0.084, 0.078, 0.086, 0.088, 0.085))
_CLOTHED = 1.07
"""Clothes make every outline wider than the body."""
_EDGE_LIGHT = 0.8


@dataclass(frozen=True)
class Figure:
    """A posed person on a canvas; `light` is the direction of light, -1 (left) to 1 (right)."""

    canvas: Canvas
    person: Person
    bones: Skeleton
    light: float

    @property
    def girth_px(self) -> float:
        """Scale from body heights to pixels for widths of this body."""
        return self.bones.height_px * self.person.girth * _CLOTHED

    def depth_light(self, joint: Joint) -> float:
        """Return the brightness of a joint: the far side of the body is darker."""
        behind = (joint.depth - self.bones.hips.depth) / self.bones.height_px
        return float(np.clip(0.97 + 0.9 * behind, 0.72, 1.05))

    def limb(self, a: Joint, b: Joint, radius_a: float, radius_b: float, paint: Paint) -> None:
        """Paint a round, tapered limb.

        Args:
            a: start.
            b: end.
            radius_a: radius at the start, in body heights.
            radius_b: radius at the end, in body heights.
            paint: colour and label.
        """
        radius_a, radius_b = radius_a * self.girth_px, radius_b * self.girth_px
        light = self.depth_light(b)
        self.canvas.fill(capsule(a.at, b.at, radius_a, radius_b), paint, light * _EDGE_LIGHT)
        shift = 0.35 * self.light
        lit = capsule(
            a.at + shift * radius_a, b.at + shift * radius_b, 0.62 * radius_a, 0.62 * radius_b
        )
        self.canvas.fill(lit, paint, light)

    def trunk(
        self, paint: Paint, levels: tuple[float, float], loose: float = 1.0, hem: float = 1.0
    ) -> None:
        """Paint the trunk between two levels (0 chest, 1 hips), `hem` times as wide at the end."""
        self.canvas.fill(self.trunk_outline(levels, -loose, loose, hem), paint, _EDGE_LIGHT)
        lit = 0.3 * self.light
        inner = self.trunk_outline(levels, lit - 0.66 * loose, lit + 0.66 * loose, hem)
        self.canvas.fill(inner, paint)

    def trunk_outline(
        self, levels: tuple[float, float], left: float, right: float, hem: float = 1.0
    ) -> np.ndarray:
        """Return an outline on the trunk; `left`, `right` in half widths (edges: -1 and 1)."""
        steps = np.linspace(*levels, 9)
        flare = np.linspace(1, hem, 9)
        edges = [self.trunk_point(steps, side * flare) for side in (left, right)]
        return np.concatenate((edges[0], edges[1][::-1]))

    def trunk_point(self, level: np.ndarray, across: np.ndarray | float) -> np.ndarray:
        """Return points `across` half widths from the trunk's middle line, as complex pixels."""
        person, bones = self.person, self.bones
        body = person.shoulders + np.clip(level, 0, 1) * (person.hips - person.shoulders)
        width = np.interp(level, _LEVELS, _WIDTHS) * body * bones.facing
        depth = np.interp(level, _LEVELS, _DEPTHS) * bones.turn
        half = np.hypot(width, depth)
        middle = bones.chest.at + level * (bones.hips.at - bones.chest.at)
        return middle + across * half * self.girth_px

    def front(self, level: float) -> float:
        """Return the position of the front middle line, in half widths; visible if `facing` > 0."""
        width = float(np.interp(level, _LEVELS, _WIDTHS)) * self.bones.facing
        depth = float(np.interp(level, _LEVELS, _DEPTHS)) * self.bones.turn
        return depth / max(float(np.hypot(width, depth)), 1e-6)


def between(a: Joint, b: Joint, share: float) -> Joint:
    """Interpolate from `a` (share 0) to `b` (share 1)."""
    return Joint(a.at + share * (b.at - a.at), a.depth + share * (b.depth - a.depth))

"""Walks of several people through the view of one camera: where each one is in every frame.

People walk left or right on a lane of their own depth, pause, turn round, leave the view and come
back on another lane after a while. So they cross, hide each other and return, which is what a
tracker needs appearance for.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

HEIGHTS = (0.28, 0.46)
"""Height of a person on the farthest and the nearest lane, as a share of the frame's height."""
FEET = (0.62, 0.97)
"""Lowest point of a person on the farthest and the nearest lane, from the top of the frame."""
SPEED = (0.05, 0.09)
"""Body heights per frame; 0.08 is 1.4 m/s at 10 frames per second."""
STEP_CYCLE = 0.8
"""Body heights per two steps."""
PAUSE_ODDS, PAUSE_FRAMES = 0.01, (5, 20)
TURN_ODDS = 0.01
AWAY_FRAMES = (10, 35)
"""How long a person who left stays away."""


@dataclass
class Walker:
    """A person's place and motion; lengths in pixels, x at the middle of the body."""

    x: float
    foot_y: float
    height: float
    speed: float
    heading: int  # 1: to the right, −1: to the left
    slant_rad: float  # how much the person faces the camera (positive) or turns away from it
    phase: float
    pause: int = 0
    away: int = 0

    @property
    def yaw_rad(self) -> float:
        """Direction of the body: 0 faces the camera, π/2 the right edge of the frame."""
        return self.heading * (math.pi / 2 - self.slant_rad)

    @property
    def present(self) -> bool:
        return self.away == 0

    @property
    def walking(self) -> bool:
        return self.pause == 0


def walk(rng: np.random.Generator, frames: int, size_hw: tuple[int, int]) -> Iterator[Walker]:
    """Yield the state of one person in each of `frames` frames of `size_hw` pixels.

    The state is one object that is updated; read it before the next one is taken.
    """
    width = size_hw[1]
    walker = _on_lane(rng, size_hw)
    walker.x = rng.uniform(0, width)
    for _ in range(frames):
        yield walker
        if walker.away:
            walker.away -= 1
            if not walker.away:
                walker = _on_lane(rng, size_hw)
        elif walker.pause:
            walker.pause -= 1
        else:
            _step(walker, rng, width)


def _on_lane(rng: np.random.Generator, size_hw: tuple[int, int]) -> Walker:
    """Return a person who enters the view at its left or right edge, on a random lane."""
    height, width = size_hw
    depth = rng.random()
    tall = height * float(np.interp(depth, (0, 1), HEIGHTS))
    heading = 1 if rng.random() < 0.5 else -1
    outside = 0.45 * tall
    return Walker(
        x=-outside if heading == 1 else width + outside,
        foot_y=height * float(np.interp(depth, (0, 1), FEET)),
        height=tall,
        speed=tall * rng.uniform(*SPEED),
        heading=heading,
        slant_rad=rng.uniform(-0.5, 0.5),
        phase=rng.uniform(0, 2 * math.pi),
    )


def _step(walker: Walker, rng: np.random.Generator, width: int) -> None:
    """Walk for one frame; then perhaps pause, turn round, or leave."""
    walker.x += walker.heading * walker.speed
    walker.phase += 2 * math.pi * walker.speed / (STEP_CYCLE * walker.height)
    chance = rng.random()
    if chance < PAUSE_ODDS:
        walker.pause = int(rng.integers(*PAUSE_FRAMES))
    elif chance < PAUSE_ODDS + TURN_ODDS:
        walker.heading = -walker.heading
    outside = 0.5 * walker.height
    if not -outside < walker.x < width + outside:
        walker.away = int(rng.integers(*AWAY_FRAMES))

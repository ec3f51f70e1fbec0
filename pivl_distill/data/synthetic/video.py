"""Render a video of one camera: people who cross and hide each other, with exact boxes.

People are drawn far to near into a scene that stays; posts stand in front of them. The camera's
image formation follows, as for crops. Every random choice comes from the seed.

Left out on purpose: motion blur and a moving camera.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from pivl_distill.data.synthetic import background, optics
from pivl_distill.data.synthetic.body import draw_person
from pivl_distill.data.synthetic.cameras import Camera, camera
from pivl_distill.data.synthetic.canvas import Canvas
from pivl_distill.data.synthetic.figure import Figure
from pivl_distill.data.synthetic.patterns import pattern
from pivl_distill.data.synthetic.people import Person, person
from pivl_distill.data.synthetic.render import compose
from pivl_distill.data.synthetic.skeleton import Pose, skeleton
from pivl_distill.data.synthetic.walks import Walker, walk

_POSTS = 2
_POST_WIDTHS = (0.05, 0.11)
"""Shares of the frame's width."""
_COVERED = 128
"""Cover (of 255) from which a pixel belongs to a person."""


class PersonBox(NamedTuple):
    """A person in a frame: bounding box of the body in the frame, as if nothing were in front.

    `person` counts from 0. Edges are in pixels, `right` and `bottom` exclusive. `visible` is the
    share of the body that is in the frame and not hidden, 0..1.
    """

    person: int
    left: int
    top: int
    right: int
    bottom: int
    visible: float


class VideoFrame(NamedTuple):
    """`image` uint8 RGB [H, W, 3], and a box of every person with a pixel in the frame."""

    image: np.ndarray
    boxes: list[PersonBox]


class _Drawn(NamedTuple):
    """A body on the padded frame: offset of its patch in pixels, and its bool mask [h, w]."""

    person: int
    top: int
    left: int
    mask: np.ndarray

    @property
    def patch(self) -> tuple[slice, slice]:
        height, width = self.mask.shape
        return slice(self.top, self.top + height), slice(self.left, self.left + width)


def render_video(
    seed: int,
    people: int = 9,
    frames: int = 120,
    size_hw: tuple[int, int] = (360, 640),
    cast: float = 0.25,
) -> Iterator[VideoFrame]:
    """Yield the frames of a video; the seed gives its people, its camera and their walks.

    Args:
        seed: ≥ 0; another seed shows other people by another camera.
        people: number of identities.
        frames: number of frames, at about 10 per second.
        size_hw: height and width of a frame in pixels.
        cast: deviation of the camera from a neutral one, 0..1, as in a `Tier`.
    """
    height, width = size_hw
    # Pixel lengths of a camera refer to a crop, which is about as high as a person here.
    view = camera(seed, 0, cast)
    view = replace(view, blur_px=view.blur_px * optics.REFERENCE_HEIGHT / height)
    rng = np.random.default_rng((seed, 41))
    pad = height // 2
    empty = background.draw_background(view, rng, size_hw)
    empty = np.pad(empty, ((pad, pad), (pad, pad), (0, 0)), mode="edge")
    posts = _posts(view, rng, width)
    crowd = [person(seed, index, 1) for index in range(people)]
    walks = [
        walk(np.random.default_rng((seed, index, 42)), frames, size_hw) for index in range(people)
    ]
    inside = slice(pad, pad + height), slice(pad, pad + width)
    for states in zip(*walks, strict=True):
        scene = empty.copy()
        nearest_last = sorted(range(people), key=lambda index: states[index].foot_y)
        drawn = [
            _draw(scene, crowd[index], states[index], view, (seed, index), pad)
            for index in nearest_last
            if states[index].present
        ]
        boxes = _boxes(drawn, posts, scene.shape[:2], inside)
        for left, right, colour in posts:
            scene[:, pad + left : pad + right] = colour
        image = np.ascontiguousarray(scene[inside])
        yield VideoFrame(optics.photograph(image, view, rng), boxes)


def _posts(view: Camera, rng: np.random.Generator, width: int) -> list[tuple[int, int, np.ndarray]]:
    """Return left edge, right edge and RGB of the posts, one in each part of the frame."""
    posts = []
    for number in range(_POSTS):
        wide = width * rng.uniform(*_POST_WIDTHS)
        left = width * (number + rng.uniform(0.3, 0.7)) / _POSTS - wide / 2
        tone = np.array(view.palette[2 + number % 2]) * rng.uniform(0.6, 0.9)
        posts.append((int(left), int(left + wide), tone.astype(np.uint8)))
    return posts


def _draw(
    scene: np.ndarray, who: Person, state: Walker, view: Camera, seed: tuple[int, int], pad: int
) -> _Drawn:
    """Draw a person and the shadow into the padded scene, in place."""
    tall, wide = math.ceil(1.12 * state.height), math.ceil(1.1 * state.height)
    top = pad + math.floor(state.foot_y - 1.06 * state.height)
    left = pad + math.floor(state.x - wide / 2)
    limbs = np.random.default_rng((*seed, 43))
    walks = state.walking
    pose = Pose(
        yaw=state.yaw_rad,
        stride=limbs.uniform(0.3, 0.5) if walks else 0.04,
        phase=state.phase,
        spread=tuple(limbs.uniform(0.06, 0.24, 2).tolist()),
        bend=tuple(limbs.uniform(0.1, 0.6, 2).tolist()),
    )
    crown = complex(pad + state.x - left, pad + state.foot_y - state.height - top)
    bones = skeleton(who, pose, view.pitch_rad, crown, state.height)
    canvas = Canvas((tall, wide))
    draw_person(Figure(canvas, who, bones, view.light))
    canvas.apply_pattern(pattern(who.pattern, canvas, bones))
    layers = canvas.layers()
    drawn = _Drawn(seed[1], top, left, layers.cover >= _COVERED)
    patch = scene[drawn.patch]
    feet = (bones.left.heel.at + bones.right.heel.at) / 2
    background.draw_shadow(patch, feet, 0.3 * bones.height_px, view.light)
    patch[:] = compose(layers, patch, np.random.default_rng((*seed, 44)))
    return drawn


def _boxes(
    drawn: list[_Drawn],
    posts: list[tuple[int, int, np.ndarray]],
    padded_hw: tuple[int, ...],
    inside: tuple[slice, slice],
) -> list[PersonBox]:
    """Return the boxes of people drawn far to near, in the coordinates of the frame."""
    owner = np.full(padded_hw, -1)
    body = np.zeros(padded_hw, bool)
    for one in drawn:
        owner[one.patch][one.mask] = one.person
    seen = owner[inside]
    for left, right, _ in posts:
        seen[:, left:right] = -1
    boxes = []
    for one in sorted(drawn, key=lambda one: one.person):
        body[:] = False
        body[one.patch] = one.mask
        framed = body[inside]
        if not framed.any():
            continue
        rows, columns = np.flatnonzero(framed.any(axis=1)), np.flatnonzero(framed.any(axis=0))
        share = np.count_nonzero(seen == one.person) / np.count_nonzero(one.mask)
        left, right = int(columns[0]), int(columns[-1]) + 1
        top, bottom = int(rows[0]), int(rows[-1]) + 1
        boxes.append(PersonBox(one.person, left, top, right, bottom, share))
    return boxes

"""Render a person as seen by a camera: an RGB crop and its exact LIP-20 label map.

Body and clothes of a posed skeleton are painted far to near on an index canvas; the camera's image
formation follows. Every random choice comes from `seed`, so rendering is deterministic;
size-dependent choices come last, so a seed shows the same scene at every size.

Left out on purpose: perspective within a crop and photo-realism. The difficulties of
re-identification are included: viewpoint, pose, colour casts, look-alikes, small parts, occlusion
and detector errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import cv2
import numpy as np

from pivl_distill.data.synthetic import background, optics
from pivl_distill.data.synthetic.body import draw_person
from pivl_distill.data.synthetic.cameras import Camera
from pivl_distill.data.synthetic.canvas import Canvas, Layers
from pivl_distill.data.synthetic.figure import Figure
from pivl_distill.data.synthetic.patterns import pattern
from pivl_distill.data.synthetic.people import Person
from pivl_distill.data.synthetic.people import person as make_person
from pivl_distill.data.synthetic.skeleton import Skeleton, pose, skeleton


class Rendering(NamedTuple):
    """`image` uint8 RGB [H, W, 3] and `labels` uint8 [H, W], LIP-20 ids."""

    image: np.ndarray
    labels: np.ndarray


def render(
    person: Person,
    camera: Camera,
    seed: int | Sequence[int],
    size_hw: tuple[int, int] = (128, 64),
) -> Rendering:
    """Render one crop of `person` by `camera`; `seed` (≥ 0) sets pose, place and occlusion."""
    rng = np.random.default_rng(seed)
    canvas = Canvas(size_hw)
    if rng.random() < camera.crowding:
        _draw_passer_by(canvas, camera, rng)
    bones = _place(person, camera, rng, size_hw)
    draw_person(Figure(canvas, person, bones, camera.light))
    canvas.apply_pattern(pattern(person.pattern, canvas, bones))
    if rng.random() < camera.occlusion:
        background.draw_occluder(canvas, camera, rng)
    scene = background.draw_background(camera, rng, size_hw)
    feet = (bones.left.heel.at + bones.right.heel.at) / 2
    background.draw_shadow(scene, feet, 0.3 * bones.height_px, camera.light)
    layers = canvas.layers()
    image = compose(layers, scene, rng)
    return Rendering(optics.photograph(image, camera, rng), layers.labels)


def render_empty(
    camera: Camera, seed: int | Sequence[int], size_hw: tuple[int, int] = (128, 64)
) -> Rendering:
    """Render a crop without a person, like a false detection."""
    rng = np.random.default_rng(seed)
    scene = background.draw_background(camera, rng, size_hw)
    return Rendering(optics.photograph(scene, camera, rng), np.zeros(size_hw, np.uint8))


def _place(
    person: Person, camera: Camera, rng: np.random.Generator, size_hw: tuple[int, int]
) -> Skeleton:
    """Pose the person inside a detection box, which is inaccurate and sometimes truncated."""
    height, width = size_hw
    length = height * rng.normal(0.95, 0.025)
    top = (height - length) * rng.uniform(0.2, 0.8)
    middle = width * rng.normal(0.5, 0.04)
    cut, high = rng.random() < camera.truncation, rng.random() < 0.8
    grown = length * rng.uniform(1.25, 1.7)
    if cut:
        top, length = top if high else height - top - grown, grown
    return skeleton(person, pose(camera, rng), camera.pitch_rad, complex(middle, top), length)


def _draw_passer_by(canvas: Canvas, camera: Camera, rng: np.random.Generator) -> None:
    """Draw another person behind and to one side; background in the map."""
    height, width = canvas.size_hw
    other = replace(make_person(int(rng.integers(2**31)), 0, 1), pattern="plain")
    length = height * rng.uniform(0.7, 0.95)
    middle = width * (0.5 + rng.choice((-1, 1)) * rng.uniform(0.25, 0.5))
    top = height * rng.uniform(0, 0.12)
    bones = skeleton(other, pose(camera, rng), camera.pitch_rad, complex(middle, top), length)
    draw_person(Figure(canvas, other, bones, camera.light))
    canvas.forget_labels()


def compose(layers: Layers, scene: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Composite the lit figure, with folds, over the scene: uint8 RGB [H, W, 3]."""
    height, width = scene.shape[:2]
    folds = rng.normal(1, 0.09, background.UNEVENNESS_HW).astype(np.float32)
    folds = cv2.resize(folds, (width, height), interpolation=cv2.INTER_CUBIC)
    soft = cv2.GaussianBlur(layers.light, (0, 0), 0.006 * height)
    light = (soft * folds) * (1 / 128)
    behind = (255 - layers.cover) * np.float32(1 / 255)
    image = layers.colour * light[..., None] + scene * behind[..., None]
    return np.clip(image, 0, 255).astype(np.uint8)

"""An articulated 3D skeleton in a walking pose, projected to the image.

Body axes: x to the person's left, y down (0 crown, about 1 sole), z forwards; unit: body height.
The skeleton is rotated by its yaw (0: facing the camera) and the camera's pitch, and projected
orthographically, so left and right labels are correct from every viewpoint.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from pivl_distill.data.synthetic.cameras import Camera
from pivl_distill.data.synthetic.people import Person

CROWN, HEAD, NECK, CHEST, HIPS = 0.0, 0.077, 0.15, 0.185, 0.505


class Joint(NamedTuple):
    """A joint: position `at` = x + iy and horizontal `depth` towards the camera, in pixels."""

    at: complex
    depth: float


class Side(NamedTuple):
    """The joints of one side of the body."""

    shoulder: Joint
    elbow: Joint
    wrist: Joint
    hand: Joint
    hip: Joint
    knee: Joint
    ankle: Joint
    heel: Joint
    toe: Joint


class Skeleton(NamedTuple):
    """A posed person in the image; `facing` is 1 towards and -1 away from the camera, `turn` is 1
    towards the right edge of the image; `height_px` is one body height in pixels."""

    left: Side
    right: Side
    head: Joint
    neck: Joint
    chest: Joint
    hips: Joint
    facing: float
    turn: float
    height_px: float


class Pose(NamedTuple):
    """One instant of a walk; angles in radians, arms as (left, right)."""

    yaw: float
    stride: float
    phase: float
    spread: tuple[float, float]
    bend: tuple[float, float]


def pose(camera: Camera, rng: np.random.Generator) -> Pose:
    """Sample a pose: mostly walking, sometimes standing or with a raised forearm."""
    yaw = camera.yaw_rad + camera.spread_rad * rng.standard_normal()
    stride = rng.uniform(0.2, 0.5) if rng.random() < 0.7 else rng.uniform(0, 0.12)
    phase = rng.uniform(0, 2 * math.pi)
    spread = rng.uniform(0.06, 0.24, 2).tolist()
    bend = rng.uniform(0.1, 0.6, 2).tolist()
    if rng.random() < 0.2:
        bend[rng.integers(2)] = rng.uniform(1.2, 2.2)
    return Pose(yaw, stride, phase, tuple(spread), tuple(bend))


def skeleton(
    person: Person, pose: Pose, pitch_rad: float, top_px: complex, length_px: float
) -> Skeleton:
    """Place a person in the image.

    Args:
        person: proportions of the body.
        pose: pose of the limbs and yaw.
        pitch_rad: downward tilt of the camera, in radians.
        top_px: position of the crown, x + iy in pixels.
        length_px: vertical extent from the crown to the lowest toe, in pixels.
    """
    points = [(0.0, HEAD, 0.0), (0.0, NECK, 0.0), (0.0, CHEST, 0.0), (0.0, HIPS, 0.0)]
    points += _limbs(person, pose, 0) + _limbs(person, pose, 1)
    view = np.array(points) @ _view(pose.yaw, pitch_rad)
    top = view[0, 1] - (HEAD - CROWN) * person.head
    height_px = length_px / (view[:, 1].max() + 0.015 - top)
    middle = (view[:, 0].min() + view[:, 0].max()) / 2
    view = (view - (middle, top, 0)) * height_px + (top_px.real, top_px.imag, 0)
    joints = [Joint(complex(x, y), depth) for x, y, depth in view.tolist()]
    count = len(Side._fields)
    head, neck, chest, hips = joints[:4]
    left, right = Side(*joints[4 : 4 + count]), Side(*joints[4 + count :])
    facing, turn = math.cos(pose.yaw), math.sin(pose.yaw)
    return Skeleton(left, right, head, neck, chest, hips, facing, turn, height_px)


def _view(yaw: float, pitch: float) -> np.ndarray:
    """Return [3, 3] that maps body axes (rows) to image right, image down, horizontal depth."""
    cos, sin = math.cos(yaw), math.sin(yaw)
    turned = np.array([[cos, 0, -sin], [0, 1, 0], [sin, 0, cos]])
    lowered = np.array([[1, 0, 0], [0, math.cos(pitch), 0], [0, math.sin(pitch), 1]])
    return turned @ lowered


def _limbs(person: Person, pose: Pose, side: int) -> list[tuple[float, float, float]]:
    """Joints of one side (0 left, 1 right) in body axes, in the order of `Side`."""
    sign = 1 - 2 * side
    swing = sign * math.sin(pose.phase)

    def step(
        start: tuple[float, float, float], length: float, forward: float, outward: float = 0.0
    ) -> tuple[float, float, float]:
        """Return the end of a bone of `length` that starts at `start`, rotated by the angles."""
        x, y, z = start
        down = length * math.cos(outward)
        return (
            x + sign * length * math.sin(outward),
            y + down * math.cos(forward),
            z + down * math.sin(forward),
        )

    spread, arm = pose.spread[side], -0.8 * pose.stride * swing
    shoulder = (sign * 0.108 * person.shoulders * person.girth, CHEST + 0.012, 0.0)
    elbow = step(shoulder, 0.165, arm, spread)
    wrist = step(elbow, 0.135, arm + pose.bend[side], spread * 0.3)
    hand = step(wrist, 0.035, arm + pose.bend[side])

    thigh = pose.stride * swing
    knee_bend = 0.06 + 1.2 * pose.stride * max(0.0, sign * math.cos(pose.phase))
    shin = thigh - knee_bend
    hip = (sign * 0.056 * person.hips * person.girth, HIPS, 0.0)
    knee = step(hip, 0.225 * person.legs, thigh, 0.02)
    ankle = step(knee, 0.215 * person.legs, shin)
    heel = step(step(ankle, 0.025, shin), 0.022, shin - math.pi / 2)
    toe = step(step(ankle, 0.034, shin), 0.085, min(shin, 0.1) + math.pi / 2, 0.12)
    return [shoulder, elbow, wrist, hand, hip, knee, ankle, heel, toe]

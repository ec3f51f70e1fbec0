"""The skeleton: sides, viewing directions and the bounding box."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pivl_distill.data.synthetic.cameras import camera
from pivl_distill.data.synthetic.people import person
from pivl_distill.data.synthetic.skeleton import Pose, pose, skeleton

STILL = Pose(yaw=0.0, stride=0.0, phase=0.0, spread=(0.1, 0.1), bend=(0.2, 0.2))


def test_left_side_is_right_in_the_image_only_from_the_front() -> None:
    front = skeleton(person(0, 0, 1), STILL, 0.2, 32 + 4j, 120)
    back = skeleton(person(0, 0, 1), STILL._replace(yaw=math.pi), 0.2, 32 + 4j, 120)
    for joint in ("shoulder", "hand", "knee", "toe"):
        assert getattr(front.left, joint).at.real > getattr(front.right, joint).at.real
        assert getattr(back.left, joint).at.real < getattr(back.right, joint).at.real


def test_facing_the_right_edge_shows_the_right_side() -> None:
    bones = skeleton(person(0, 0, 1), STILL._replace(yaw=math.pi / 2), 0.0, 32 + 4j, 120)
    assert bones.turn == pytest.approx(1)
    assert bones.right.shoulder.depth > bones.left.shoulder.depth
    assert bones.left.toe.at.real > bones.left.heel.at.real


def test_seen_from_above_toes_point_down_from_the_front_and_up_from_behind() -> None:
    front = skeleton(person(0, 0, 1), STILL, 0.4, 32 + 4j, 120)
    back = skeleton(person(0, 0, 1), STILL._replace(yaw=math.pi), 0.4, 32 + 4j, 120)
    assert front.left.toe.at.imag > front.left.heel.at.imag
    assert back.left.toe.at.imag < back.left.heel.at.imag


def test_figure_fills_its_box_in_any_pose() -> None:
    rng = np.random.default_rng(0)
    for index in range(50):
        bones = skeleton(person(0, index, 1), pose(camera(0, index), rng), 0.3, 30 + 5j, 100)
        joints = [joint.at for side in bones[:2] for joint in side]
        lowest = max(at.imag for at in joints)
        assert 95 < lowest < 105
        assert bones.head.at.imag > 5
        reach = [at.real for at in joints]
        assert (min(reach) + max(reach)) / 2 == pytest.approx(30, abs=4)


def test_forward_leg_swings_against_its_arm() -> None:
    bones = skeleton(
        person(0, 0, 1), STILL._replace(stride=0.4, phase=math.pi / 2), 0.0, 32 + 4j, 120
    )
    assert bones.left.knee.depth > bones.right.knee.depth
    assert bones.left.elbow.depth < bones.right.elbow.depth

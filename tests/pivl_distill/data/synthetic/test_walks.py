"""Walks: where people are, how fast they move, and that they leave and return."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from pivl_distill.data.synthetic.walks import AWAY_FRAMES, FEET, HEIGHTS, SPEED, walk

SIZE_HW = (100, 200)


@pytest.fixture(scope="module")
def walks():
    return [
        [replace(state) for state in walk(np.random.default_rng(seed), 400, SIZE_HW)]
        for seed in range(10)
    ]


def test_people_stay_on_their_lane_and_within_their_speed(walks):
    for states in walks:
        for before, after in pairwise(states):
            if before.away or after.away:
                continue
            moved = abs(after.x - before.x) / before.height
            assert after.foot_y == before.foot_y
            assert moved == 0 if before.pause else moved <= SPEED[1] + 1e-9


def test_nearer_people_are_taller_and_lower(walks):
    lanes = sorted({(state.foot_y, state.height) for states in walks for state in states})
    assert np.all(np.diff([height for _, height in lanes]) > 0)
    for foot_y, height in lanes:
        assert FEET[0] <= foot_y / SIZE_HW[0] <= FEET[1]
        assert HEIGHTS[0] <= height / SIZE_HW[0] <= HEIGHTS[1]


def test_who_leaves_is_away_for_a_while_and_enters_at_an_edge(walks):
    returns = 0
    for states in walks:
        for before, after in pairwise(states):
            assert after.away < AWAY_FRAMES[1]
            if before.away and not after.away:
                returns += 1
                assert after.x < 0 or after.x > SIZE_HW[1]
                assert (after.heading == 1) == (after.x < 0)
    assert returns > 10


def test_bodies_face_where_they_walk(walks):
    assert all(
        np.sign(np.sin(state.yaw_rad)) == state.heading for states in walks for state in states
    )

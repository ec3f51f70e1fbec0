"""Rendering: exact maps, correct sides, determinism."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from pivl_distill.data.synthetic import labels
from pivl_distill.data.synthetic.cameras import Camera, camera
from pivl_distill.data.synthetic.people import PALETTE, person, phrases
from pivl_distill.data.synthetic.render import Rendering, render, render_empty


@pytest.fixture(scope="module")
def sample() -> list[tuple[int, Rendering]]:
    """Crops of 60 people, each by one of 12 strong cameras, without occluders."""
    cameras = [replace(camera(0, index), occlusion=0.0) for index in range(12)]
    return [
        (index, render(person(0, index, 1), cameras[index % 12], (index, shot)))
        for index in range(60)
        for shot in range(3)
    ]


def _looking(yaw_rad: float) -> Camera:
    """A neutral camera that sees every person from the same side."""
    return replace(camera(0, 0, 0.0), yaw_rad=yaw_rad, spread_rad=0.0)


def test_types_and_shapes() -> None:
    image, part_map = render(person(0, 0, 1), camera(0, 0), 0)
    assert image.shape == (128, 64, 3)
    assert part_map.shape == (128, 64)
    assert image.dtype == part_map.dtype == np.uint8


def test_same_seed_gives_the_same_bytes() -> None:
    first, again, other = (render(person(0, 1, 1), camera(0, 1), (7, seed)) for seed in (0, 0, 1))
    assert first.image.tobytes() == again.image.tobytes()
    assert first.labels.tobytes() == again.labels.tobytes()
    assert first.image.tobytes() != other.image.tobytes()


def test_every_label_occurs_and_no_other(sample: list[tuple[int, Rendering]]) -> None:
    occurring = np.unique(np.concatenate([crop.labels.ravel() for _, crop in sample]))
    assert occurring.tolist() == list(range(20))


def test_map_has_only_labels_that_its_person_has(sample: list[tuple[int, Rendering]]) -> None:
    for index, crop in sample:
        shown = set(np.unique(crop.labels).tolist()) - {labels.BACKGROUND}
        assert shown <= phrases(person(0, index, 1)).keys()


def test_people_fill_the_crop(sample: list[tuple[int, Rendering]]) -> None:
    share = np.mean([(crop.labels > 0).mean() for _, crop in sample])
    assert 0.35 < share < 0.5


@pytest.mark.parametrize(("yaw_rad", "left_of_image"), [(0.0, "right"), (math.pi, "left")])
def test_left_and_right_are_those_of_the_person(yaw_rad: float, left_of_image: str) -> None:
    someone = replace(person(0, 0, 1), lower="shorts", socks=None, coat=None, gloves=None, bag=None)
    pairs = [
        (labels.LEFT_ARM, labels.RIGHT_ARM),
        (labels.LEFT_LEG, labels.RIGHT_LEG),
        (labels.LEFT_SHOE, labels.RIGHT_SHOE),
    ]
    for seed in range(5):
        part_map = render(someone, _looking(yaw_rad), seed).labels
        for pair in pairs:
            left, right = (np.nonzero(part_map == label)[1].mean() for label in pair)
            assert (left > right) == (left_of_image == "right")


def test_face_and_glasses_are_hidden_from_behind() -> None:
    someone = replace(
        person(0, 0, 1), hair_length="long", sunglasses=True, hat=None, scarf="red", bag=None
    )
    front, back = (render(someone, _looking(yaw), 0).labels for yaw in (0.0, math.pi))
    for label in (labels.FACE, labels.SUNGLASSES):
        assert (front == label).any()
        assert not (back == label).any()


def test_image_shows_the_colour_under_the_label() -> None:
    someone = replace(
        person(0, 0, 1), upper="red", pattern="plain", coat=None, lower="pants", lower_colour="cyan"
    )
    image, part_map = render(someone, _looking(0.0), 3)
    for label, name in ((labels.UPPER, "red"), (labels.PANTS, "cyan")):
        mean_colour = image[part_map == label].mean(axis=0)
        nearest = min(PALETTE, key=lambda colour: np.abs(mean_colour - PALETTE[colour]).sum())
        assert nearest == name


@pytest.mark.parametrize("pattern", ["hstripe", "vstripe", "plaid", "dots", "logo"])
def test_patterns_change_the_image_and_not_the_map(pattern: str) -> None:
    plain = replace(
        person(0, 0, 1), lower="pants", upper="white", accent="black", pattern="plain",
        coat=None, bag=None,
    )  # fmt: skip
    without, patterned = (
        render(someone, _looking(0.0), 3) for someone in (plain, replace(plain, pattern=pattern))
    )
    np.testing.assert_array_equal(without.labels, patterned.labels)
    shirt = without.labels == labels.UPPER
    darker = without.image[shirt].mean() - patterned.image[shirt].mean()
    assert darker > 3


def test_a_scene_looks_the_same_at_every_size() -> None:
    for seed in range(5):
        small = render(person(0, seed, 1), camera(0, seed), seed)
        large = render(person(0, seed, 1), camera(0, seed), seed, size_hw=(256, 128))
        assert large.image.shape == (256, 128, 3)
        assert (large.labels[::2, ::2] == small.labels).mean() > 0.94
        reduced = large.image.reshape(128, 2, 64, 2, 3).mean(axis=(1, 3))
        assert abs(reduced - small.image).mean() < 8


def test_odd_sizes() -> None:
    image, part_map = render(person(0, 0, 1), camera(0, 0), 0, size_hw=(97, 41))
    assert image.shape == (97, 41, 3)
    assert part_map.shape == (97, 41)


def test_occluders_hide_part_of_the_person() -> None:
    calm = replace(camera(0, 0, 0.0), occlusion=0.0)
    busy = replace(calm, occlusion=1.0)
    shares = [
        np.mean([(render(person(0, i, 1), view, i).labels > 0).mean() for i in range(20)])
        for view in (calm, busy)
    ]
    assert shares[1] < 0.9 * shares[0]


def test_passers_by_are_background() -> None:
    single = replace(camera(0, 0, 0.0), truncation=0.0)
    crowd = replace(single, crowding=1.0)
    for seed in range(5):
        someone = person(0, seed, 1)
        shown = set(np.unique(render(someone, crowd, seed).labels).tolist()) - {0}
        assert shown <= phrases(someone).keys()
        assert (render(someone, crowd, seed).image != render(someone, single, seed).image).any()


def test_truncation_enlarges_and_crops_the_person() -> None:
    complete = replace(camera(0, 0, 0.0), truncation=0.0)
    cut = replace(complete, truncation=1.0)
    for seed in range(5):
        part_map = render(person(0, seed, 1), cut, seed).labels
        assert part_map[0].any() or part_map[-1].any()
        assert not render(person(0, seed, 1), complete, seed).labels[[0, -1]].all(axis=1).any()


def test_empty_crops_have_no_labels() -> None:
    image, part_map = render_empty(camera(0, 0), (0, 1))
    assert image.shape == (128, 64, 3)
    assert not part_map.any()
    assert image.std() > 0

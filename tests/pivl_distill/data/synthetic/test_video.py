"""Videos: boxes fit the pixels, visibility fits who stands in front, seeds decide everything."""

from __future__ import annotations

import numpy as np
import pytest

from pivl_distill.data.synthetic import video
from pivl_distill.data.synthetic.video import render_video

SIZE_HW = (120, 200)


def rendered(seed=3, people=4, frames=8, **changed):
    return list(render_video(seed, people, frames, SIZE_HW, **changed))


def test_a_seed_gives_the_same_video_and_another_seed_another():
    first, second, other = rendered(), rendered(), rendered(seed=4)
    assert len(first) == 8
    for one, two, three in zip(first, second, other, strict=True):
        assert one.image.shape == (*SIZE_HW, 3)
        assert one.image.dtype == np.uint8
        assert np.array_equal(one.image, two.image)
        assert one.boxes == two.boxes
        assert not np.array_equal(one.image, three.image)


def test_boxes_are_inside_the_frame_and_one_per_person():
    for frame in rendered(people=8, frames=12):
        people = [box.person for box in frame.boxes]
        assert people == sorted(set(people))
        for box in frame.boxes:
            assert 0 <= box.left < box.right <= SIZE_HW[1]
            assert 0 <= box.top < box.bottom <= SIZE_HW[0]
            assert 0 <= box.visible <= 1


@pytest.fixture
def no_posts(monkeypatch):
    monkeypatch.setattr(video, "_posts", lambda view, rng, width: [])


@pytest.mark.usefixtures("no_posts")
def test_a_person_changes_the_pixels_of_the_box_only():
    """A neutral camera keeps all other pixels, but for the shadow on the floor."""
    compared = 0
    with_one, with_two = rendered(people=1, cast=0.0), rendered(people=2, cast=0.0)
    for one, two in zip(with_one, with_two, strict=True):
        added = [box for box in two.boxes if box.person == 1 and box.visible > 0.9]
        for box in added:
            changed = np.abs(two.image.astype(int) - one.image).max(axis=2) > 50
            inside = changed[box.top : box.bottom, box.left : box.right]
            assert inside.sum() > 0.2 * inside.size
            rows, columns = np.nonzero(changed & (np.arange(SIZE_HW[0])[:, None] < box.bottom - 15))
            assert (rows >= box.top - 1).all()
            assert ((columns >= box.left - 1) & (columns <= box.right)).all()
            compared += 1
    assert compared > 3


@pytest.mark.usefixtures("no_posts")
def test_only_people_in_front_hide_somebody():
    """Recompute: nobody in front of the box, and all of it in the frame, is fully visible."""
    hidden = 0
    for frame in rendered(seed=5, people=10, frames=20):
        for box in frame.boxes:
            edges = box.left > 0 and box.right < SIZE_HW[1]
            meets = [
                other
                for other in frame.boxes
                if other.person != box.person
                and min(other.right, box.right) > max(other.left, box.left)
                and min(other.bottom, box.bottom) > max(other.top, box.top)
            ]
            if edges and not meets:
                assert box.visible == 1
            hidden += box.visible < 0.5
    assert hidden > 5


def test_posts_hide_people():
    visible = [box.visible for frame in rendered(people=10, frames=40) for box in frame.boxes]
    alone = [box.visible for frame in rendered(people=1, frames=40) for box in frame.boxes]
    assert min(visible) < 0.1
    assert len(alone) > 10

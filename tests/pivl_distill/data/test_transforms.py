"""Augmentation: image and map stay aligned, sides swap, inventions have no class."""

from __future__ import annotations

import numpy as np
import pytest

from pivl_distill.data.transforms import Augmentation, augment
from pivl_distill.data.vocabulary import IGNORE, LIP20

SIZE_HW = (32, 16)
FILL = (1, 2, 3)
NOTHING = Augmentation(pad_px=0, flip_probability=0, erase_probability=0)


def make_batch(batch: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Crops whose red channel (from 50) tells the class of the map, so alignment shows."""
    rng = np.random.default_rng(0)
    maps = rng.integers(0, len(LIP20), (batch, *SIZE_HW), dtype=np.uint8)
    crops = rng.integers(50, 256, (batch, *SIZE_HW, 3), dtype=np.uint8)
    crops[..., 0] = 50 + maps
    return crops, maps


def run(augmentation: Augmentation, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    crops, maps = make_batch()
    rng = np.random.default_rng(seed)
    crops, out = augment(crops, maps, LIP20.mirror, augmentation, FILL, rng)
    assert out is not None
    return crops, out


def test_nothing_asked_nothing_changed() -> None:
    for before, after in zip(make_batch(), run(NOTHING), strict=True):
        np.testing.assert_array_equal(after, before)


def test_a_flip_mirrors_both_and_swaps_the_sides() -> None:
    crops, maps = make_batch()
    flipped_crops, flipped_maps = run(Augmentation(0, flip_probability=1, erase_probability=0))
    np.testing.assert_array_equal(flipped_crops, crops[:, :, ::-1])
    left, right = LIP20.index("Left-arm"), LIP20.index("Right-arm")
    np.testing.assert_array_equal(flipped_maps == left, maps[:, :, ::-1] == right)
    np.testing.assert_array_equal(flipped_maps == 1, maps[:, :, ::-1] == 1)


def test_half_of_the_crops_are_flipped() -> None:
    crops, _ = make_batch()
    flipped, _ = run(Augmentation(0, flip_probability=0.5, erase_probability=0))
    share = np.mean([(after == before).all() for before, after in zip(crops, flipped, strict=True)])
    assert 0.3 < share < 0.7


def test_image_and_map_move_together_and_inventions_have_no_class() -> None:
    crops, maps = run(Augmentation(flip_probability=0))
    invented = (crops == FILL).all(axis=-1)
    np.testing.assert_array_equal(maps == IGNORE, invented)
    np.testing.assert_array_equal(crops[..., 0][~invented], 50 + maps[~invented])
    assert 0.1 < invented.mean() < 0.6


def test_inventions_may_be_background() -> None:
    plain, background = (
        run(Augmentation(flip_probability=0, invented=value))[1] for value in (IGNORE, 0)
    )
    np.testing.assert_array_equal(background, np.where(plain == IGNORE, 0, plain))


def test_noise_fills_boxes_and_black_the_padding() -> None:
    std = (0.2, 0.1, 0.05)
    noisy, maps = run(Augmentation(4, flip_probability=0, erase_probability=0, noise_std=std))
    assert (noisy[maps == IGNORE] == 0).all()
    crops, _ = make_batch()
    erasing = Augmentation(0, flip_probability=0, erase_probability=1, noise_std=std)
    middle = (128, 120, 130)
    rng = np.random.default_rng(0)
    noisy, maps = augment(crops, maps, LIP20.mirror, erasing, middle, rng)
    drawn = noisy[(maps == IGNORE) & (noisy != crops).any(-1)].astype(float)
    np.testing.assert_allclose(drawn.mean(0), middle, atol=2)
    np.testing.assert_allclose(drawn.std(0) / 255, std, rtol=0.05)


def test_noise_is_the_same_for_the_same_draws_with_maps_or_without() -> None:
    crops, maps = make_batch()
    augmentation = Augmentation(noise_std=(0.2, 0.2, 0.2))
    first, second = np.random.default_rng(4), np.random.default_rng(4)
    seen, _ = augment(crops, maps, LIP20.mirror, augmentation, FILL, first)
    blind, _ = augment(crops, None, None, augmentation, FILL, second)
    np.testing.assert_array_equal(seen, blind)
    assert first.random() == second.random()


def test_a_shift_is_a_window_of_the_padded_crop() -> None:
    crops, _ = make_batch()
    shifted, _ = run(Augmentation(3, flip_probability=0, erase_probability=0))
    padded = np.empty((len(crops), 38, 22, 3), np.uint8)
    padded[:] = FILL
    padded[:, 3:-3, 3:-3] = crops
    offsets = set()
    for number, crop in enumerate(shifted):
        windows = [
            (top, left)
            for top, left in np.ndindex(7, 7)
            if (padded[number, top : top + 32, left : left + 16] == crop).all()
        ]
        assert len(windows) == 1
        offsets.update(windows)
    assert {top for top, _ in offsets} == {left for _, left in offsets} == set(range(7))


def test_an_erased_box_is_one_rectangle_of_the_asked_area() -> None:
    augmentation = Augmentation(0, flip_probability=0, erase_probability=1, erase_area=(0.1, 0.3))
    crops, _ = run(augmentation)
    for crop in crops:
        erased = (crop == FILL).all(axis=-1)
        rows, columns = np.flatnonzero(erased.any(axis=1)), np.flatnonzero(erased.any(axis=0))
        assert erased[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        assert 0.06 < erased.mean() < 0.34


def test_maps_do_not_change_the_draws() -> None:
    crops, maps = make_batch()
    with_maps, without = np.random.default_rng(4), np.random.default_rng(4)
    seen, _ = augment(crops, maps, LIP20.mirror, Augmentation(), FILL, with_maps)
    blind, none = augment(crops, None, None, Augmentation(), FILL, without)
    np.testing.assert_array_equal(seen, blind)
    assert none is None
    assert with_maps.random() == without.random()


def test_the_input_stays_as_it_was() -> None:
    crops, maps = make_batch()
    augment(crops, maps, LIP20.mirror, Augmentation(), FILL, np.random.default_rng(0))
    for before, after in zip(make_batch(), (crops, maps), strict=True):
        np.testing.assert_array_equal(after, before)


def test_maps_need_the_mirror_table() -> None:
    crops, maps = make_batch()
    with pytest.raises(ValueError, match="mirror"):
        augment(crops, maps, None, Augmentation(), FILL, np.random.default_rng(0))

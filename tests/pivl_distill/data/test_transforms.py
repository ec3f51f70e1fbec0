"""Augmentation: images and maps stay aligned, flips swap left and right, padding is unknown."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from pivl_distill.data.transforms import Augmentation, augment
from pivl_distill.data.vocabulary import IGNORE, LIP20
from pivl_distill.models.embedding import normalize_crops

SIZE_HW = (32, 16)
FILL = (1, 2, 3)
NOTHING = Augmentation(pad_px=0, flip_probability=0, erase_probability=0)


def make_batch(batch: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Crops whose red channel (from 50) encodes the class of the map, to check alignment."""
    rng = np.random.default_rng(0)
    maps = rng.integers(0, len(LIP20), (batch, *SIZE_HW), dtype=np.uint8)
    crops = rng.integers(50, 256, (batch, *SIZE_HW, 3), dtype=np.uint8)
    crops[..., 0] = 50 + maps
    return crops, maps


def augmented(
    augmentation: Augmentation,
    rng: np.random.Generator,
    *,
    with_maps: bool = True,
    fill: tuple[int, int, int] = FILL,
    device: str = "cpu",
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return crops and maps of the augmented batch; no maps unless `with_maps`."""
    crops, maps = (torch.from_numpy(values).to(device) for values in make_batch())
    maps_and_mirror = (maps, LIP20.mirror) if with_maps else (None, None)
    batch = augment(crops, *maps_and_mirror, augmentation, fill, rng)
    return batch.crops.cpu().numpy(), None if batch.maps is None else batch.maps.cpu().numpy()


def run(augmentation: Augmentation, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    crops, maps = augmented(augmentation, np.random.default_rng(seed))
    assert maps is not None
    return crops, maps


def one_by_one(
    augmentation: Augmentation, rng: np.random.Generator
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Augment crops and maps one by one, pixel by pixel, with the random choices of the batch."""
    crops, maps = make_batch()
    batch, height, width, pad = len(crops), *SIZE_HW, augmentation.pad_px
    flips = rng.random(batch) < augmentation.flip_probability
    shifts = rng.integers(0, 2 * pad, size=(batch, 2), endpoint=True)
    erased = rng.random(batch) < augmentation.erase_probability
    areas = rng.uniform(*augmentation.erase_area, batch) * height * width
    aspects = rng.uniform(*augmentation.erase_aspect, batch)
    sides = np.array(
        [
            (min(height, round((a * r) ** 0.5)), min(width, round((a / r) ** 0.5))) if e else (0, 0)
            for a, r, e in zip(areas, aspects, erased, strict=True)
        ]
    )
    corners = rng.integers(0, np.array(SIZE_HW) - sides, endpoint=True)
    padding = (0, 0, 0) if augmentation.noise else FILL
    for crop, part_map, flip, (down, right), (box_h, box_w), (top, left) in zip(
        crops, maps, flips, shifts, sides, corners, strict=True
    ):
        new, new_map = np.empty_like(crop), np.empty_like(part_map)
        if augmentation.noise:
            rng.standard_normal((box_h, box_w, 3), np.float32)
        for y, x in np.ndindex(height, width):
            from_y, from_x = y + down - pad, x + right - pad
            if top <= y < top + box_h and left <= x < left + box_w:
                new[y, x], new_map[y, x] = FILL, augmentation.invented
            elif not (0 <= from_y < height and 0 <= from_x < width):
                new[y, x], new_map[y, x] = padding, augmentation.invented
            elif flip:
                new[y, x] = crop[from_y, width - 1 - from_x]
                new_map[y, x] = LIP20.mirror[part_map[from_y, width - 1 - from_x]]
            else:
                new[y, x], new_map[y, x] = crop[from_y, from_x], part_map[from_y, from_x]
        yield new, new_map


EVERY_OPTION = {
    "defaults": Augmentation(),
    "nothing": NOTHING,
    "no padding": Augmentation(pad_px=0),
    "more padding than crop": Augmentation(pad_px=40),
    "all flipped": Augmentation(flip_probability=1),
    "none flipped": Augmentation(flip_probability=0),
    "all erased": Augmentation(erase_probability=1, erase_area=(0.3, 1.0)),
    "none erased": Augmentation(erase_probability=0),
    "noise": Augmentation(noise=True),
    "background": Augmentation(invented=LIP20.background),
}
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
CUDA = pytest.param("cuda", marks=needs_gpu)


@pytest.mark.parametrize("device", ["cpu", CUDA])
@pytest.mark.parametrize("augmentation", EVERY_OPTION.values(), ids=EVERY_OPTION)
def test_batch_equals_a_reference_per_crop(augmentation: Augmentation, device: str) -> None:
    rng, reference_rng = np.random.default_rng(5), np.random.default_rng(5)
    crops, maps = augmented(augmentation, rng, device=device)
    expected = one_by_one(augmentation, reference_rng)
    for number, (crop, part_map) in enumerate(expected):
        np.testing.assert_array_equal(crops[number], crop)
        np.testing.assert_array_equal(maps[number], part_map)
    assert number == 63
    # Equally many numbers are drawn, so that the next batch is the same too.
    assert rng.random() == reference_rng.random()


@needs_gpu
@pytest.mark.parametrize("augmentation", EVERY_OPTION.values(), ids=EVERY_OPTION)
def test_host_does_not_synchronise_with_the_device(augmentation: Augmentation) -> None:
    crops, maps = (torch.from_numpy(values).cuda() for values in make_batch())
    rng = np.random.default_rng(0)
    torch.cuda.set_sync_debug_mode("error")
    try:
        augment(crops, maps, LIP20.mirror, augmentation, FILL, rng)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_zero_strength_changes_nothing() -> None:
    for before, after in zip(make_batch(), run(NOTHING), strict=True):
        np.testing.assert_array_equal(after, before)


def test_flip_mirrors_both_and_swaps_labels() -> None:
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


def test_image_and_map_shift_together_and_padding_is_unknown() -> None:
    crops, maps = run(Augmentation(flip_probability=0))
    invented = (crops == FILL).all(axis=-1)
    np.testing.assert_array_equal(maps == IGNORE, invented)
    np.testing.assert_array_equal(crops[..., 0][~invented], 50 + maps[~invented])
    assert 0.1 < invented.mean() < 0.6


def test_padding_and_boxes_may_be_background() -> None:
    plain, background = (
        run(Augmentation(flip_probability=0, invented=value))[1] for value in (IGNORE, 0)
    )
    np.testing.assert_array_equal(background, np.where(plain == IGNORE, 0, plain))


def noisy(*, maps: bool = True) -> tuple[torch.Tensor, torch.Tensor, np.random.Generator]:
    """Return normalised images before and after their boxes are filled with noise, and the rng."""
    crops, part_maps = (torch.from_numpy(values) for values in make_batch())
    maps_and_mirror = (part_maps, LIP20.mirror) if maps else (None, None)
    rng, half = np.random.default_rng(4), (0.5, 0.5, 0.5)
    augmentation = Augmentation(4, flip_probability=0, erase_probability=1, noise=True)
    batch = augment(crops, *maps_and_mirror, augmentation, FILL, rng)
    before = normalize_crops(batch.crops, half, half)
    after = before.clone()
    batch.noise.fill_boxes(after[:40], slice(40))
    batch.noise.fill_boxes(after[40:], slice(40, None))
    return before, after, rng


def test_noise_is_standard_normal_and_not_clipped() -> None:
    before, after, _ = noisy()
    changed = (before != after).any(1)
    drawn = after.permute(0, 2, 3, 1)[changed]
    assert drawn.mean().abs() < 0.02
    assert (drawn.std() - 1).abs() < 0.02
    assert drawn.max() > 3  # bytes end at 1 here
    filled = before.permute(0, 2, 3, 1)[changed]
    assert torch.equal(filled, filled[:1].expand_as(filled))  # only boxes: all of one colour
    assert (changed.sum((1, 2)) > 0).all()


def test_noise_implies_black_padding() -> None:
    crops, maps = run(Augmentation(4, flip_probability=0, erase_probability=0, noise=True))
    assert (crops[maps == IGNORE] == 0).all()


def test_noise_is_the_same_with_and_without_maps() -> None:
    (_, with_maps, first), (_, without_maps, second) = noisy(), noisy(maps=False)
    assert torch.equal(with_maps, without_maps)
    assert first.random() == second.random()


def test_shift_is_a_window_of_the_padded_crop() -> None:
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


def test_erased_box_is_a_rectangle_of_the_given_area() -> None:
    augmentation = Augmentation(0, flip_probability=0, erase_probability=1, erase_area=(0.1, 0.3))
    crops, _ = run(augmentation)
    for crop in crops:
        erased = (crop == FILL).all(axis=-1)
        rows, columns = np.flatnonzero(erased.any(axis=1)), np.flatnonzero(erased.any(axis=0))
        assert erased[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        assert 0.06 < erased.mean() < 0.34


def test_random_choices_do_not_depend_on_maps() -> None:
    first, second = np.random.default_rng(4), np.random.default_rng(4)
    crops, _ = augmented(Augmentation(), first)
    crops_without_maps, none = augmented(Augmentation(), second, with_maps=False)
    np.testing.assert_array_equal(crops, crops_without_maps)
    assert none is None
    assert first.random() == second.random()


def test_input_is_not_modified() -> None:
    crops, maps = (torch.from_numpy(values) for values in make_batch())
    augment(crops, maps, LIP20.mirror, Augmentation(), FILL, np.random.default_rng(0))
    for before, after in zip(make_batch(), (crops, maps), strict=True):
        np.testing.assert_array_equal(after.numpy(), before)


def test_maps_need_the_mirror_table() -> None:
    crops, maps = (torch.from_numpy(values) for values in make_batch())
    with pytest.raises(ValueError, match="mirror"):
        augment(crops, maps, None, Augmentation(), FILL, np.random.default_rng(0))


def test_confidence_moves_with_its_pixels() -> None:
    """The green channel (from 50) encodes the confidence, which is 0 in padding and boxes."""
    crops, maps = (torch.from_numpy(values) for values in make_batch())
    confidence = torch.from_numpy(
        np.random.default_rng(1).integers(0, 200, maps.shape, dtype=np.uint8)
    )
    crops[..., 1] = 50 + confidence
    arguments = (LIP20.mirror, Augmentation(), (0, 0, 0), np.random.default_rng(0))
    batch = augment(crops, maps, *arguments, confidence=confidence)
    invented = (batch.crops == 0).all(3)
    assert invented.any()
    assert torch.equal(batch.confidence, torch.where(invented, 0, batch.crops[..., 1] - 50))
    again = augment(crops, maps, LIP20.mirror, Augmentation(), (0, 0, 0), np.random.default_rng(0))
    assert torch.equal(again.crops, batch.crops)
    assert torch.equal(again.maps, batch.maps)
    assert again.confidence is None

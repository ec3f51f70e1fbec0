"""Every equation of the paper equals plain loops: values and gradients in double precision.

Eq. 7 is in `test_losses.py`; Eq. 1 and the text side of Eq. 6 are in
`tests/teachers/test_prompts.py`.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from equation_loops import (
    TEXT_INDICES,
    assert_same,
    batch_hard_triplet,
    contrast_by_loops,
    depthwise_3x3_by_loops,
    distance_by_loops,
    dot,
    downsample,
    lateral_by_loops,
    majority,
    make_text_features,
    mean,
    nearest,
    norm,
    normal,
    one_way_contrast,
    pixels_per_cell,
    random_map,
    smoothed_cross_entropy,
    upsample,
)
from pivl_distill import losses
from pivl_distill.config import HeadSettings, LossSettings
from pivl_distill.data.vocabulary import IGNORE, LIP20
from pivl_distill.models.factorised_fusion import encode_cells, fuse
from pivl_distill.models.fused_map import FusedMap
from pivl_distill.models.fusion import FusionHead, LateralFusion, SimplePyramidFusion
from pivl_distill.models.network import ReIDOutput
from pivl_distill.training import alignment
from pivl_distill.training.objective import loss_terms

# Eq. 2


@pytest.mark.parametrize("text_index", TEXT_INDICES.values(), ids=TEXT_INDICES)
@pytest.mark.parametrize("tau", [0.2, 1.0])
def test_equation_2(text_index: list[int], tau: float) -> None:
    labels = torch.tensor(text_index)
    images, texts = normal(len(text_index), 5), normal(max(text_index) + 1, 5, seed=1)
    texts_per_image = texts[labels]  # T_{y_i} of the paper
    expected = one_way_contrast(images, texts_per_image, labels, tau)
    expected = expected + one_way_contrast(texts_per_image, images, labels, tau)
    actual = losses.identity_contrastive_loss(images, texts, labels, tau)
    assert_same(actual, expected, images, texts)


# Eq. 3 and L_id of Eq. 4


@pytest.mark.parametrize("epsilon", [0.0, 0.1])
def test_equation_3(epsilon: float) -> None:
    images, texts, labels = normal(4, 5), normal(6, 5, seed=1), torch.tensor([5, 0, 0, 3])
    logits = torch.stack([torch.stack([dot(image, text) for text in texts]) for image in images])
    expected = smoothed_cross_entropy(logits, labels, epsilon)
    assert_same(losses.image_to_text_loss(images, texts, labels, epsilon), expected, images, texts)


@pytest.mark.parametrize("epsilon", [0.0, 0.1])
def test_label_smoothing_of_equation_4(epsilon: float) -> None:
    logits, labels = normal(4, 6), torch.tensor([5, 0, 0, 3])
    expected = smoothed_cross_entropy(logits, labels, epsilon)
    assert_same(losses.identity_loss(logits, labels, epsilon), expected, logits)


# L_tri of Eq. 4


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("margin", [0.0, 0.3, 5.0])
def test_triplet_of_equation_4(normalize: bool, margin: float) -> None:
    features, labels = normal(8, 5), torch.tensor([0, 1, 0, 2, 1, 1, 2, 0])
    compared = torch.stack([f / norm(f) for f in features]) if normalize else features
    expected = batch_hard_triplet(compared, labels, margin)
    assert_same(losses.triplet_loss(features, labels, margin, normalize), expected, features)


# Eq. 6: the text features of a map


@pytest.mark.parametrize("background", ["include", "ignore"])
@pytest.mark.parametrize("grid_hw", [(4, 3), (8, 6), (3, 2)])
def test_equation_6_has_the_text_of_each_cells_part(
    background: str, grid_hw: tuple[int, int]
) -> None:
    maps, labels, text_features = random_map(), torch.tensor([3, 0, 2]), make_text_features()
    settings = LossSettings(align_background=background)
    expected = {}
    for image in range(len(maps)):
        for (row, column), values in pixels_per_cell(maps[image], grid_hw).items():
            part, person = majority(values), int(labels[image])
            excluded = part == LIP20.background and background == "ignore"
            if part != IGNORE and not excluded and text_features.present[person, part]:
                expected[image, row, column] = text_features.part[person, part]
    target = alignment.make_text_map(maps, labels, grid_hw, text_features, settings)
    places = [tuple(place) for place in target.mask.nonzero().tolist()]
    assert set(places) == set(expected)
    assert 0 < len(places) < len(maps) * grid_hw[0] * grid_hw[1]
    in_order = torch.stack([expected[place] for place in places])
    assert_same(target.to_dense().permute(0, 2, 3, 1)[target.mask], in_order, text_features.part)


def test_equation_6_with_the_mean_text_of_each_cells_parts() -> None:
    maps, labels, text_features = random_map(), torch.tensor([3, 0, 2]), make_text_features()
    settings = LossSettings(align_background="ignore", align_labels="soft")
    expected = {}
    for image in range(len(maps)):
        person = int(labels[image])
        for (row, column), values in pixels_per_cell(maps[image], (4, 3)).items():
            parts = [v for v in values if v not in (IGNORE, 0) and text_features.present[person, v]]
            if 2 * len(parts) >= len(values):
                expected[image, row, column] = mean(
                    [text_features.part[person, part] for part in parts]
                )
    target = alignment.make_text_map(maps, labels, (4, 3), text_features, settings)
    places = [tuple(place) for place in target.mask.nonzero().tolist()]
    assert set(places) == set(expected)
    in_order = torch.stack([expected[place] for place in places])
    assert_same(target.to_dense().permute(0, 2, 3, 1)[target.mask], in_order, text_features.part)


def test_equation_6_soft_equals_hard_for_cells_of_one_part() -> None:
    texts, labels = normal(2, 6, 5), torch.tensor([1, 0])
    parts = torch.randint(0, 6, (2, 4, 3), generator=torch.Generator().manual_seed(0))
    shares = nn.functional.one_hot(parts, 6).permute(0, 3, 1, 2).double()
    hard = alignment.make_hard_text_map(texts, labels, parts)
    soft = alignment.make_soft_text_map(texts, labels, shares)
    assert hard.mask.all()
    assert_same(soft.to_dense(), hard.to_dense(), texts)


# Eq. 9 and 10


CHANNELS, DIM, GRID = (4, 6, 3), 12, (4, 2)


def pyramid() -> tuple[Tensor, ...]:
    """Maps of strides 4, 8 and 16 of a crop of 32×16 pixels."""
    sizes = ((8, 4), (4, 2), (2, 1))
    return tuple(normal(2, c, *hw, seed=c) for c, hw in zip(CHANNELS, sizes, strict=True))


def head_of(**settings: object) -> LateralFusion:
    torch.manual_seed(0)
    return LateralFusion(CHANNELS, DIM, GRID, HeadSettings(**settings)).double()


def assert_fuses_to(
    head: FusionHead, maps: tuple[Tensor, ...], expected: Tensor, *inputs: Tensor
) -> None:
    """Assert that both the reference and the factorised path compute `expected`."""
    assert_same(head(maps), expected, *inputs)
    assert_same(fuse(head, encode_cells(head, maps)).to_dense(), expected, *inputs)


@pytest.mark.parametrize("levels", [(2, 3, 4), (2, 4), (3,), (4,)])
@pytest.mark.parametrize("kind", ["pointwise", "depthwise", "auto", "grouped"])
@pytest.mark.parametrize(("up", "down"), [("bilinear", "average"), ("nearest", "nearest")])
def test_equations_9_and_10(levels: tuple[int, ...], kind: str, up: str, down: str) -> None:
    head, maps = head_of(levels=levels, lateral=kind, up=up, down=down), pyramid()
    to_finer = {"bilinear": upsample, "nearest": nearest}[up]
    to_coarser = {"average": downsample, "nearest": nearest}[down]
    images = []
    for image in range(2):
        total = torch.zeros(DIM, *GRID, dtype=torch.float64)
        for level, conv in zip(levels, head.laterals, strict=True):
            f_i = lateral_by_loops(maps[level - 2][image], conv)
            resample = {2: to_coarser, 3: lambda x, _: x, 4: to_finer}[level]
            total = total + resample(f_i, GRID)
        images.append(total)
    inputs = [maps[level - 2] for level in levels]
    assert_fuses_to(head, maps, torch.stack(images), *inputs, *head.parameters())


def test_equation_9_separable_and_10_strided() -> None:
    head, maps = head_of(levels=(2,), lateral="separable", down="strided"), pyramid()
    (separable,), (to_grid,) = head.laterals, head.to_grid
    images = []
    for image in maps[0]:
        f_2 = lateral_by_loops(depthwise_3x3_by_loops(image, separable[0]), separable[1])
        images.append(depthwise_3x3_by_loops(f_2, to_grid.strided_conv))
    assert_fuses_to(head, maps, torch.stack(images), maps[0], *head.parameters())


@pytest.mark.parametrize("merge", ["sum", "concat", "weighted"])
def test_equation_10_merges(merge: str) -> None:
    head, maps = head_of(merge=merge), pyramid()
    with torch.no_grad():
        for parameter in head.merge.parameters():
            parameter.normal_()
    images = []
    for image in range(2):
        f_2, f_3, f_4 = (
            lateral_by_loops(x[image], conv) for x, conv in zip(maps, head.laterals, strict=True)
        )
        aligned = [downsample(f_2, GRID), f_3, upsample(f_4, GRID)]
        if merge == "concat":
            images.append(lateral_by_loops(torch.cat(aligned), head.merge.convolve))
        else:
            weights = [1, 1, 1] if merge == "sum" else head.merge.weights
            images.append(sum(w * x for w, x in zip(weights, aligned, strict=True)))
    assert_fuses_to(head, maps, torch.stack(images), *maps, *head.parameters())


@pytest.mark.parametrize("merge", ["sum", "weighted"])
def test_equation_10_of_a_simple_pyramid(merge: str) -> None:
    torch.manual_seed(0)
    head = SimplePyramidFusion(6, DIM, (4, 2), HeadSettings(levels=(3, 4), merge=merge)).double()
    tokens = normal(2, 6, 2, 1)
    images = []
    finer, same = (branch(tokens) for branch in head.branches)
    for image in range(2):
        fused = finer[image] + upsample(same[image], GRID)  # the learned weights start at 1
        images.append(lateral_by_loops(fused, head.project))
    inputs = [tokens, head.project.weight, head.project.bias]
    assert_fuses_to(head, (tokens,), torch.stack(images), *inputs)


# Eq. 11


@pytest.mark.parametrize("distance", ["cosine", "mse", "smooth_l1", "contrastive"])
def test_equation_11(distance: str) -> None:
    aligned, texts = normal(3, 5, 4, 2), normal(2, 6, 5, seed=1)
    labels = torch.tensor([1, 0, 1])
    parts = torch.randint(0, 6, (3, 4, 2), generator=torch.Generator().manual_seed(0))
    parts[0, 1] = IGNORE
    features, targets, pairs = [], [], []
    for image, row, column in torch.ones_like(parts).nonzero().tolist():
        part = int(parts[image, row, column])
        if part != IGNORE:
            features.append(aligned[image, :, row, column])
            targets.append(texts[labels[image], part])
            pairs.append(int(labels[image]) * 6 + part)
    assert len(features) == 22
    if distance in ("cosine", "contrastive"):
        features, targets = ([x / norm(x) for x in both] for both in (features, targets))
    if distance == "contrastive":
        expected = contrast_by_loops(features, targets, pairs)
    else:
        expected = distance_by_loops(features, targets, distance)
    target = alignment.make_hard_text_map(texts, labels, parts)
    actual = alignment.alignment_loss(FusedMap(aligned), target, distance, 0.5)
    assert_same(actual, expected, aligned, texts)


# Eq. 12 (Eq. 4 is its first three terms)


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0, 1.0), (0.25, 2.0, 3.0, 5.0)])
def test_equation_12(weights: tuple[float, ...]) -> None:
    features = (normal(4, 5, seed=2), normal(4, 8, seed=3))
    logits = (normal(4, 4, seed=4), normal(4, 4, seed=5))
    projected, aligned = normal(4, 5, seed=6), normal(4, 5, 4, 3, seed=7)
    text_features, labels = make_text_features(), torch.tensor([0, 0, 3, 3])
    maps = random_map(batch=4)
    lambdas = dict(zip(("identity", "triplet", "image_to_text", "align"), weights, strict=True))
    settings = LossSettings(
        **lambdas, triplet_normalize=False, align_distance="mse", align_background="include"
    )
    output = ReIDOutput(features, logits, projected, FusedMap(aligned))
    terms = loss_terms(output, labels, torch.as_tensor(maps), text_features, settings)

    l_id = sum(smoothed_cross_entropy(scores, labels, 0.1) for scores in logits)
    l_tri = sum(batch_hard_triplet(features, labels, 0.3) for features in features)
    scores = torch.stack(
        [torch.stack([dot(v, t) for t in text_features.identity]) for v in projected]
    )
    l_i2tce = smoothed_cross_entropy(scores, labels, 0.1)
    cells = []
    for image in range(4):
        for (row, column), values in pixels_per_cell(maps[image], (4, 3)).items():
            if (part := majority(values)) != IGNORE:
                gaps = aligned[image, :, row, column] - text_features.part[int(labels[image]), part]
                cells.append(dot(gaps, gaps) / 5)
    printed = zip(weights, (l_id, l_tri, l_i2tce, mean(cells)), strict=True)
    expected = sum(weight * term for weight, term in printed)
    inputs = (*features, *logits, projected, aligned)
    assert_same(torch.stack(list(terms.values())).sum(), expected, *inputs)

"""Cells of a map, their purity recomputed cell by cell, and their layout."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from pivl_distill.data.vocabulary import IGNORE, LIP20
from pivl_distill.models.embedding import EmbeddingModel
from pivl_distill.models.map_layer import MapLayer, SplitNetwork, as_is
from pivl_distill.report.cell_features import (
    NEIGHBOURS,
    Cells,
    embed_cells,
    layout,
    measure_purity,
    sample_rows,
)

SIZE_HW = (8, 4)


@pytest.fixture(scope="module")
def cells() -> Cells:
    """Cells of four people with three parts each; part and person add to the features."""
    rng = np.random.default_rng(0)
    parts, pids, crops = np.meshgrid([1, 5, 9], [3, 4, 6, 8], np.arange(5), indexing="ij")
    part, person = rng.normal(size=(10, 16)), rng.normal(size=(9, 16))
    features = 2 * part[parts.ravel()] + person[pids.ravel()] + rng.normal(size=(60, 16))
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    crop = 5 * pids.ravel() + crops.ravel()
    return Cells(unit.astype(np.float32), parts.ravel(), pids.ravel(), crop)


def test_cells_have_the_majority_part_and_unit_features(band_store):
    network = nn.Sequential(nn.AvgPool2d(16), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    split = SplitNetwork(network, network[0], lambda map_: network[2](network[1](map_)))
    size_hw = band_store.crops.shape[1:3]
    model = EmbeddingModel("mean colours", split, size_hw, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    layer = MapLayer(split, split.map, as_is)
    maps = list(band_store.maps)
    found = embed_cells(model, layer, band_store.crops, maps, band_store.pids, LIP20)
    assert set(found.parts) == {LIP20.index(label) for label in ("Hat", "Face", "Upper-clothes",
                                                                 "Pants")}  # fmt: skip
    np.testing.assert_allclose(np.linalg.norm(found.features, axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(band_store.pids[found.crops], found.pids)
    row = np.flatnonzero((found.crops == 2) & (found.parts == LIP20.index("Hat")))[0]
    mean = model.preprocess(band_store.crops[2:3])[0, :, :16, 16:32].mean((1, 2))
    expected = torch.nn.functional.normalize(mean, dim=0).numpy()
    np.testing.assert_allclose(found.features[row], expected, rtol=1e-4)
    unknown = [np.full(size_hw, IGNORE, np.uint8)] * len(maps)
    nothing = embed_cells(model, layer, band_store.crops, unknown, band_store.pids, LIP20)
    assert len(nothing) == 0


def test_purity_is_that_of_neighbours_in_other_crops(cells):
    part, identity, part_chance = [], [], []
    for row in range(len(cells)):
        similarity = cells.features @ cells.features[row]
        others = np.flatnonzero(cells.crops != cells.crops[row])
        nearest = others[np.argsort(-similarity[others], kind="stable")[:NEIGHBOURS]]
        part.append((cells.parts[nearest] == cells.parts[row]).mean())
        part_chance.append((cells.parts[others] == cells.parts[row]).mean())
        within = others[cells.parts[others] == cells.parts[row]]
        best = within[similarity[within].argmax()]
        identity.append(cells.pids[best] == cells.pids[row])
    found = measure_purity(cells)
    assert found.part == pytest.approx(np.mean(part))
    assert found.part_chance == pytest.approx(np.mean(part_chance))
    assert found.identity == pytest.approx(np.mean(identity))
    assert found.part > 2 * found.part_chance
    assert found.identity > 2 * found.identity_chance
    assert 0 < found.silhouette < 1
    assert found.cells == 60


def test_random_features_are_as_pure_as_chance():
    rng = np.random.default_rng(1)
    features = rng.normal(size=(900, 32)).astype(np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    random = Cells(
        features, rng.integers(1, 4, 900), rng.integers(0, 5, 900), rng.integers(0, 90, 900)
    )
    found = measure_purity(random)
    assert found.part == pytest.approx(found.part_chance, abs=0.03)
    assert found.identity == pytest.approx(found.identity_chance, abs=0.06)
    assert found.silhouette == pytest.approx(0, abs=0.02)


def test_samples_are_even_over_parts_and_leave_out_rare_ones():
    parts = np.array([1] * 500 + [2] * 50 + [3] * 20 + [4] * 5)
    rows = sample_rows(parts, 90)
    assert np.bincount(parts[rows]).tolist() == [0, 35, 35, 20]
    assert (np.diff(rows) > 0).all()
    np.testing.assert_array_equal(rows, sample_rows(parts, 90))
    assert len(sample_rows(parts[-5:], 90)) == 0
    assert len(sample_rows(parts, 10_000)) == 570


def test_layout_is_repeatable_and_keeps_groups_together(cells):
    positions = layout(cells)
    np.testing.assert_array_equal(positions, layout(cells))
    assert positions.shape == (60, 2)
    centres = np.stack([positions[cells.parts == part].mean(0) for part in (1, 5, 9)])
    nearest = np.linalg.norm(positions[:, None] - centres, axis=2).argmin(1)
    assert (np.array([1, 5, 9])[nearest] == cells.parts).mean() > 0.8

"""Unit features and exact similarities of arrays, memory maps and tensors of any float type."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pivl_distill.errors import PivlError
from pivl_distill.retrieval.similarity import (
    UnitFeatures,
    blocks,
    chunk_rows,
    empty_product,
    exact_pairs,
    exact_rows,
    float32_tolerance,
)


def features(rows: int = 300) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((rows, 20)).astype(np.float32)


def cosine(query: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    query, gallery = (
        raw / np.linalg.norm(raw.astype(float), axis=1, keepdims=True) for raw in (query, gallery)
    )
    return query @ gallery.T


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("scale", [1.0, 1e-3, 100.0])
def test_unit_features_have_length_one_for_every_float_type(kind: type, scale: float) -> None:
    raw = (features() * scale).astype(kind)
    unit = UnitFeatures.from_raw(raw, "query").unit()
    assert unit.dtype == torch.float32
    expected = raw / np.linalg.norm(raw.astype(float), axis=1, keepdims=True)
    np.testing.assert_allclose(unit, expected, atol=2e-7)


@pytest.mark.parametrize("scale", [1e-30, 1e25])
def test_extreme_lengths_are_normalised(scale: float) -> None:
    raw = features() * np.float32(scale)
    unit = UnitFeatures.from_raw(raw, "query").unit()
    np.testing.assert_allclose(unit, UnitFeatures.from_raw(features(), "query").unit(), atol=2e-7)


def test_zero_row_stays_zero() -> None:
    raw = features()
    raw[7] = 0
    unit = UnitFeatures.from_raw(raw, "query")
    assert (unit.unit()[7] == 0).all()
    assert (unit.exact(torch.tensor([7])) == 0).all()


def test_exact_pairs_and_rows_are_float64_cosines() -> None:
    query, gallery = features()[:50], features()[50:]
    expected = cosine(query, gallery)
    ours, theirs = UnitFeatures.from_raw(query, "query"), UnitFeatures.from_raw(gallery, "gallery")
    rows, columns = torch.arange(50).repeat(5), torch.arange(250)
    pairs = exact_pairs(ours, theirs, rows, columns)
    np.testing.assert_allclose(pairs, expected[rows, columns], atol=1e-12, rtol=0)
    some = torch.tensor([4, 9])
    np.testing.assert_allclose(exact_rows(ours, theirs, some), expected[some], atol=1e-12, rtol=0)


def test_copies_are_equal_at_any_position_and_length() -> None:
    gallery = np.concatenate([features(300), 4 * features(1), features(1)])
    ours, theirs = (
        UnitFeatures.from_raw(features(2), "query"),
        UnitFeatures.from_raw(gallery, "gallery"),
    )
    copies = torch.tensor([0, 300, 301])
    pairs = exact_pairs(ours, theirs, torch.ones(3, dtype=torch.int64), copies)
    assert len(pairs.unique()) == 1


def test_read_only_memory_maps_are_read_without_warning(tmp_path: Path, recwarn) -> None:
    np.save(tmp_path / "features.npy", features())
    mapped = np.load(tmp_path / "features.npy", mmap_mode="r")
    unit = UnitFeatures.from_raw(mapped, "gallery")
    assert torch.equal(unit.unit(), UnitFeatures.from_raw(features(), "gallery").unit())
    assert torch.equal(
        unit.exact(torch.tensor([3])), UnitFeatures.from_raw(features(), "x").exact(slice(3, 4))
    )
    assert not recwarn.list


def test_non_finite_rows_are_counted_and_the_first_is_named() -> None:
    raw = features()
    raw[[200, 250], 3] = np.nan, np.inf
    with pytest.raises(
        PivlError, match=r"^2 of 300 query features are not finite \(first: row 200"
    ):
        UnitFeatures.from_raw(raw, "query")


@pytest.mark.parametrize("columns", [1, 16, 33])
def test_product_rows_are_aligned_to_64_bytes(columns: int) -> None:
    product = empty_product(3, columns, torch.device("cpu"))
    assert product.shape == (3, columns)
    assert product.dtype == torch.float32
    assert 4 * product.stride(0) % 64 == 0
    torch.mm(torch.eye(3), torch.ones(3, columns), out=product)
    assert (product == 1).all()


def test_tolerance_grows_with_errors_and_is_never_zero() -> None:
    exact = torch.tensor([0.5, -0.25], dtype=torch.float64)
    assert float32_tolerance(exact.float(), exact) == 4 * 0.5 * 2**-24
    assert float32_tolerance(exact.float() + torch.tensor([0.0, 0.125]), exact) == 0.5


def test_blocks_cover_the_range_and_chunks_fit_memory() -> None:
    assert list(blocks(5, 2)) == [slice(0, 2), slice(2, 4), slice(4, 5)]
    assert list(blocks(0, 2)) == []
    assert chunk_rows(1000, 100) == 10
    assert chunk_rows(1, 100) == 1

"""An index over Parquet shards against exact search; names; invalid files."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from pivl_distill.errors import PivlError
from pivl_distill.retrieval.faiss_index import FeatureShards, build_index
from pivl_distill.vectors.space import VectorSpace

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

SIZES, DIM = (400, 1, 399), 16


def vectors(count: int = sum(SIZES)) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, DIM)).astype(np.float32)


def unit(features: np.ndarray) -> np.ndarray:
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def write(file: Path, features: np.ndarray, rows_per_group: int = 128) -> None:
    column = pa.FixedSizeListArray.from_arrays(pa.array(features.ravel()), features.shape[1])
    names = [f"{file.stem}/{number}.jpg" for number in range(len(features))]
    parquet.write_table(
        pa.table({"name": names, "feature": column}), file, row_group_size=rows_per_group
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    parts = np.split(vectors(), np.cumsum(SIZES)[:-1])
    for name, part in zip("abc", parts, strict=True):
        write(tmp_path / f"{name}.parquet", part)
    return tmp_path


@pytest.mark.parametrize("rows", [1, 100, 10_000])
def test_batches_are_all_rows_in_order_with_unit_length(folder: Path, rows: int) -> None:
    shards = FeatureShards.open(folder)
    assert (len(shards), shards.dim) == (sum(SIZES), DIM)
    batches = list(shards.batches(rows))
    assert max(map(len, batches)) <= rows
    np.testing.assert_allclose(np.concatenate(batches), unit(vectors()), atol=1e-6)


def test_single_file_is_a_gallery(folder: Path) -> None:
    assert len(FeatureShards.open(folder / "c.parquet")) == SIZES[2]


def test_zero_feature_stays_zero(tmp_path: Path) -> None:
    write(tmp_path / "zero.parquet", np.zeros((2, DIM), np.float32))
    (batch,) = FeatureShards.open(tmp_path).batches()
    assert not batch.any()


def test_ids_lead_to_names_across_files_and_row_groups(folder: Path) -> None:
    names = FeatureShards.open(folder).names([0, 127, 128, 399, 400, 401, 799])
    assert names == [f"{n}.jpg" for n in ("a/0", "a/127", "a/128", "a/399", "b/0", "c/0", "c/398")]


@pytest.mark.parametrize("number", [-1, 800])
def test_unknown_id_raises(folder: Path, number: int) -> None:
    with pytest.raises(PivlError, match=r"No crop has id .*; there are 800 crops"):
        FeatureShards.open(folder).names([number])


@pytest.mark.parametrize(("rows", "least"), [(1, 1), (300, 250), (10**6, 800)])
def test_samples_are_unit_features_of_the_shards(folder: Path, rows: int, least: int) -> None:
    sample = FeatureShards.open(folder).sample(rows)
    assert least <= len(sample) <= rows
    everything = {row.tobytes() for row in FeatureShards.open(folder).sample(10**6)}
    assert {row.tobytes() for row in sample} <= everything


@pytest.mark.parametrize("factory", ["Flat", "IVF4,Flat"])
def test_index_agrees_with_exact_search(folder: Path, factory: str) -> None:
    pytest.importorskip("faiss")
    index = build_index(FeatureShards.open(folder), factory, train_rows=500)
    if factory != "Flat":
        index.nprobe = 4  # all of its lists
    queries = unit(np.random.default_rng(1).standard_normal((9, DIM)).astype(np.float32))
    similarity, ids = index.search(queries, 5)
    cosine = queries @ unit(vectors()).T
    np.testing.assert_array_equal(ids, np.argsort(-cosine, axis=1)[:, :5])
    np.testing.assert_allclose(similarity, np.take_along_axis(cosine, ids, axis=1), atol=1e-6)


def test_unknown_index_factory_raises(folder: Path) -> None:
    pytest.importorskip("faiss")
    with pytest.raises(PivlError, match="cannot build an index 'Flatt' for 16 dimensions"):
        build_index(FeatureShards.open(folder), "Flatt")


def test_empty_shards_are_an_empty_gallery(tmp_path: Path) -> None:
    write(tmp_path / "empty.parquet", np.ones((0, DIM), np.float32))
    shards = FeatureShards.open(tmp_path)
    assert shards.sample(10).shape == (0, DIM)
    assert sum(map(len, shards.batches())) == len(shards) == 0


@pytest.mark.parametrize("row", [None, [None] * DIM])
def test_rows_without_a_feature_raise(tmp_path: Path, row: list[None] | None) -> None:
    kind = pa.list_(pa.float32(), DIM)
    column = pa.array([[1.0] * DIM, row], kind)
    parquet.write_table(pa.table({"name": ["a", "b"], "feature": column}), tmp_path / "a.parquet")
    shards = FeatureShards.open(tmp_path)
    for read in (lambda: list(shards.batches()), lambda: shards.sample(2)):
        with pytest.raises(PivlError, match=r"a\.parquet has rows without a feature"):
            read()


def test_features_of_two_networks_raise(folder: Path) -> None:
    write(folder / "d.parquet", np.ones((3, 8), np.float32))
    with pytest.raises(PivlError, match=r"8 in .*d\.parquet, 16 in .*c\.parquet"):
        FeatureShards.open(folder)


def test_features_must_be_finite(tmp_path: Path) -> None:
    write(tmp_path / "broken.parquet", np.full((3, DIM), np.nan, np.float32))
    with pytest.raises(PivlError, match=r"broken\.parquet contains features that are not finite"):
        list(FeatureShards.open(tmp_path).batches())


def test_other_tables_and_damaged_files_raise(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"name": ["a"], "feature": [[1.0]]}), tmp_path / "list.parquet")
    with pytest.raises(PivlError, match="must have columns `name` and `feature`"):
        FeatureShards.open(tmp_path / "list.parquet")
    (tmp_path / "cut.parquet").write_bytes(b"PAR1")
    with pytest.raises(PivlError, match=r"cut\.parquet is not a Parquet file, or is truncated"):
        FeatureShards.open(tmp_path / "cut.parquet")
    with pytest.raises(PivlError, match="No Parquet file at"):
        FeatureShards.open(tmp_path / "none")


@pytest.mark.parametrize("module", ["pyarrow", "faiss"])
def test_missing_library_raises_with_install_command(folder, module, monkeypatch) -> None:
    shards = FeatureShards.open(folder)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(PivlError, match=rf"needs {module}: `pip install 'pivl-distill\[search\]'`"):
        build_index(shards)


def test_hostile_shards_raise(folder: Path) -> None:
    names = pa.FixedSizeListArray.from_arrays(pa.array(["a"] * DIM), DIM)
    parquet.write_table(pa.table({"name": ["a"], "feature": names}), folder / "text.parquet")
    with pytest.raises(PivlError, match="must have columns `name` and `feature`"):
        FeatureShards.open(folder / "text.parquet")
    shards = FeatureShards.open(folder / "a.parquet")
    damaged = bytearray((folder / "a.parquet").read_bytes())
    damaged[200:-3000] = bytes(len(damaged) - 3200)
    (folder / "a.parquet").write_bytes(damaged)
    with pytest.raises(PivlError, match=r"a\.parquet (is a damaged|contains features)"):
        list(shards.batches())


def tag(file: Path, space: str, *compatible: str) -> None:
    """Write the space of the vectors into a Parquet file."""
    facts = json.dumps({"vector_space": space, "compatible_with": compatible})
    table = parquet.read_table(file)
    parquet.write_table(table.replace_schema_metadata({"pivl_distill": facts}), file)


def test_a_gallery_of_two_spaces_raises_unless_they_are_compatible(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    old, new, other = ("0" * 32, "1" * 32, "2" * 32)
    tag(folder / "a.parquet", old)
    tag(folder / "b.parquet", new)
    with pytest.raises(PivlError, match=r"different networks.*migrate"):
        FeatureShards.open(folder)
    tag(folder / "b.parquet", new, old)
    shards = FeatureShards.open(folder)  # c.parquet is of an earlier version
    assert "c.parquet does not say" in caplog.text
    assert {space and space.id for space in shards.spaces} == {old, new, None}
    tag(folder / "c.parquet", old)
    shards = FeatureShards.open(folder)
    shards.check_queries(VectorSpace(old))
    shards.check_queries(VectorSpace(other, (old, new)))
    with pytest.raises(PivlError, match=r"the queries \(space 2{32}\)"):
        shards.check_queries(VectorSpace(other, (old,)))

"""Files of vectors: what is written is read back; other files are refused."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from pivl_distill.errors import PivlError
from pivl_distill.vectors import files
from pivl_distill.vectors.files import VectorFile, vector_writer
from pivl_distill.vectors.space import VectorSpace

SPACE = VectorSpace("a" * 32, ("b" * 32,))
NAMES = ["a/ü.png", "b.png", "c.png"]
VECTORS = np.arange(12, dtype=np.float32).reshape(3, 4)


def write(path: Path, metadata: dict[str, object] | None = None) -> Path:
    if path.suffix == ".parquet":
        pytest.importorskip("pyarrow")
    facts = SPACE.metadata() if metadata is None else metadata
    with vector_writer(path)(path, 4, facts) as add:
        for name, vector in zip(NAMES, VECTORS, strict=True):
            add(name, vector)
    return path


@pytest.mark.parametrize("suffix", ["npz", "parquet"])
@pytest.mark.parametrize("group", [2, 4096])
def test_rows_and_metadata_make_a_round_trip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, group: int
) -> None:
    monkeypatch.setattr(files, "ROWS_PER_GROUP", group)
    file = VectorFile.open(write(tmp_path / f"v.{suffix}", {**SPACE.metadata(), "network": "n"}))
    assert (file.count, file.dim, file.space, file.metadata["network"]) == (3, 4, SPACE, "n")
    names, vectors = file.read()
    assert names == NAMES
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors, VECTORS)
    assert len(list(file.batches())) == -(-3 // group)


@pytest.mark.parametrize("suffix", ["npz", "parquet"])
def test_a_file_of_an_earlier_version_has_no_space(tmp_path: Path, suffix: str) -> None:
    assert VectorFile.open(write(tmp_path / f"v.{suffix}", {})).space is None


@pytest.mark.parametrize("suffix", ["npz", "parquet"])
def test_damaged_metadata_and_numbers_are_refused(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"v.{suffix}", {"vector_space": "none"})
    with pytest.raises(PivlError, match="damaged metadata: 'none' is not the id"):
        VectorFile.open(path)
    with vector_writer(path)(path, 4, {}) as add:
        add("a", np.array([1, np.nan, 0, 0], np.float32))
    with pytest.raises(PivlError, match="not finite"):
        VectorFile.open(path).read()


def save(path: Path, **arrays: object) -> Path:
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


def test_other_npz_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "v.npz"
    texts = np.array(["a", "b"])
    others = {
        "features": {"names": texts},
        "shape": {"names": texts, "features": np.ones(2)},
        "numbers": {"names": np.ones(2), "features": np.ones((2, 3))},
        "2 names for 3": {"names": texts, "features": np.ones((3, 3))},
        "Python objects": {"names": np.array([{}], object), "features": np.ones((1, 3))},
        "no JSON object": {"names": texts, "features": np.ones((2, 3)), "metadata": json.dumps(1)},
    }
    for reason, arrays in others.items():
        with pytest.raises(PivlError, match=reason):
            VectorFile.open(save(path, **arrays))
    path.write_text("no archive")
    with pytest.raises(PivlError, match="not a file of vectors"):
        VectorFile.open(path)
    with pytest.raises(PivlError, match=r"must end in \.npz"):
        VectorFile.open(tmp_path / "v.npy")
    with pytest.raises(PivlError, match="no file"):
        VectorFile.open(tmp_path / "none.npz")


def test_an_array_that_claims_more_than_it_holds_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "v.npz", names=np.array(["a"]), features=np.ones((1, 4)))
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    content["features.npy"] = content["features.npy"].replace(b"(1, 4)", b"(1000000, 4)", 1)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    with pytest.raises(PivlError, match="not a file of vectors"):
        VectorFile.open(path)


def test_an_archive_that_unpacks_to_far_more_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "v.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("features.npy", bytes(65 << 20))
    with pytest.raises(PivlError, match=r"unpacks to 65\.0 MiB"):
        VectorFile.open(path)


def test_rows_without_a_name_or_feature_are_refused(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [[1.0, 2.0], [3.0, 4.0]]
    tables = {
        "name": (["a", None], rows),
        "feature": (["a", "b"], [rows[0], None]),
    }
    for missing, (names, features) in tables.items():
        table = {"name": names, "feature": pa.array(features, pa.list_(pa.float32(), 2))}
        parquet.write_table(pa.table(table), tmp_path / "v.parquet")
        with pytest.raises(PivlError, match=rf"v\.parquet has rows without a {missing}"):
            VectorFile.open(tmp_path / "v.parquet").read()


def test_whatever_an_archive_raises_names_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "v.npz")
    data = path.read_bytes()
    method = data.index(b"PK\x01\x02") + 10  # of the first entry, in the directory
    for number in (1, 99):  # shrunk; unknown: NotImplementedError
        path.write_bytes(data[:method] + bytes([number]) + data[method + 1 :])
        with pytest.raises(PivlError, match=r"v\.npz is not a file of vectors"):
            VectorFile.open(path)

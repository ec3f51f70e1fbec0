"""Files of vectors: names, unit vectors and metadata, as .npz or Parquet.

.npz holds `names` [N], `features` float32 [N, F] and `metadata`, a JSON text. Parquet has the
columns `name` and `feature`, a list of F float32, and the same JSON as metadata of the file. Both
are written row by row, atomically, and read in batches.
"""

from __future__ import annotations

import json
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pivl_distill.errors import PivlError, one_line
from pivl_distill.storage.filenames import utf8_name
from pivl_distill.storage.files import atomic_write
from pivl_distill.storage.limits import (
    MAX_ARCHIVE_EXCESS,
    MAX_FEATURE_DIM,
    MAX_TENSOR_FILE_BYTES,
    MIB,
)
from pivl_distill.storage.readers import check_size, parse_json
from pivl_distill.vectors.parquet import (
    PARQUET_ENTRY,
    damage_named,
    parquet_dim,
    parquet_facts,
    parquet_features,
    parquet_file,
)
from pivl_distill.vectors.space import VectorSpace, check_comparable, space_from_metadata

ROWS_PER_GROUP = 4096
"""Rows of a group of a Parquet file, and of a batch that is read."""

Row = Callable[[str, np.ndarray], None]
Metadata = dict[str, Any]
VectorWriter = Callable[[Path, int, Metadata], AbstractContextManager[Row]]
"""`with write(path, dim, metadata) as add` lets `add(name, vector)` write the rows."""


@dataclass(frozen=True)
class VectorFile:
    """An opened file of vectors; `batches` reads them."""

    path: Path
    count: int
    """N."""
    dim: int
    """F."""
    metadata: Metadata
    space: VectorSpace | None
    """Of the network that made them; None for files of earlier versions."""

    @classmethod
    def open(cls, path: Path) -> VectorFile:
        """Open a .npz or .parquet file; raises PivlError if it is not a file of vectors."""
        if path.suffix not in (".npz", ".parquet"):
            raise PivlError(f"{path} must end in .npz or .parquet, as `pivl-distill embed` writes.")
        check_size(path, MAX_TENSOR_FILE_BYTES)
        if path.suffix == ".npz":
            names, features, metadata = _read_npz(path)
            count, dim = features.shape
            if len(names) != count:
                raise PivlError(f"{path} has {len(names)} names for {count} vectors.")
        else:
            file = parquet_file(path)
            count, dim, metadata = file.metadata.num_rows, parquet_dim(path), parquet_facts(path)
        try:
            space = space_from_metadata(metadata)
        except ValueError as error:
            raise PivlError(f"{path} has damaged metadata: {error}.") from error
        return cls(path, count, dim, metadata, space)

    def batches(self) -> Iterator[tuple[list[str], np.ndarray]]:
        """Yield names and vectors float32 [≤ 4,096, F], in order.

        Raises PivlError if a vector is not finite, or the file is damaged.
        """
        if self.path.suffix == ".npz":
            names, features, _ = _read_npz(self.path)
            for start in range(0, len(names), ROWS_PER_GROUP):
                rows = slice(start, start + ROWS_PER_GROUP)
                yield names[rows].tolist(), self._checked(features[rows])
            return
        with damage_named(self.path):
            for batch in parquet_file(self.path).iter_batches(ROWS_PER_GROUP):
                names = batch.column("name")
                if names.null_count:
                    raise PivlError(f"{self.path} has rows without a name; write it again.")
                features = parquet_features(batch.column("feature"), self.path, self.dim)
                yield list(map(str, names.to_pylist())), self._checked(features)

    def read(self) -> tuple[list[str], np.ndarray]:
        """Return all names, and the vectors float32 [N, F]."""
        names: list[str] = []
        parts = [np.empty((0, self.dim), np.float32)]
        for some, vectors in self.batches():
            names += some
            parts.append(vectors)
        return names, np.concatenate(parts)

    def _checked(self, features: np.ndarray) -> np.ndarray:
        if not np.isfinite(features).all():
            raise PivlError(f"{self.path} contains vectors that are not finite.")
        return features.astype(np.float32, copy=False)


def load_comparable(
    path: Path, space: VectorSpace | None, dim: int, network: str
) -> tuple[list[str], np.ndarray]:
    """Return names and vectors float32 [N, `dim`] to compare with those of a network.

    Raises PivlError if they are of another space than `space`, that of the network, or of another
    length.
    """
    stored = VectorFile.open(path)
    check_comparable(stored.space, str(path), space, f"the network {network}")
    if stored.dim != dim:
        raise PivlError(f"{path} has vectors of {stored.dim} values, but {network} makes {dim}.")
    return stored.read()


def vector_writer(out: Path) -> VectorWriter:
    """Return what writes files with the suffix of `out`.

    Raises PivlError for another suffix than .npz and .parquet, or if pyarrow is missing.
    """
    if out.suffix == ".npz":
        return _write_npz
    if out.suffix != ".parquet":
        raise PivlError(f"{out} must end in .npz (numpy) or .parquet.")
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise PivlError(
            "Parquet files need pyarrow: `pip install 'pivl-distill[search]'`, or name a file"
            " with the suffix .npz."
        ) from error
    return _write_parquet


@contextmanager
def _write_npz(out: Path, dim: int, metadata: Metadata) -> Iterator[Row]:
    """Write a .npz file.

    An array in it begins with its number of rows, so rows are collected in an unnamed temporary
    file first.
    """
    names: list[str] = []
    with atomic_write(out) as file, tempfile.TemporaryFile(dir=file.parent) as rows:

        def add(name: str, vector: np.ndarray) -> None:
            names.append(name)
            rows.write(vector.astype("<f4").tobytes())

        yield add
        rows.flush()
        features = np.memmap(rows, "<f4", "r", shape=(len(names), dim))
        with file.open("wb") as archive:
            np.savez(archive, names=names, features=features, metadata=json.dumps(metadata))


@contextmanager
def _write_parquet(out: Path, dim: int, metadata: Metadata) -> Iterator[Row]:
    """Write a Parquet file."""
    import pyarrow
    import pyarrow.parquet

    kind = pyarrow.list_(pyarrow.float32(), dim)
    schema = pyarrow.schema([("name", pyarrow.string()), ("feature", kind)])
    names: list[str] = []
    vectors: list[np.ndarray] = []

    def flush() -> None:
        flat = pyarrow.array(np.concatenate(vectors), pyarrow.float32())
        columns = [names, pyarrow.FixedSizeListArray.from_arrays(flat, dim)]
        writer.write_table(pyarrow.table(columns, schema=schema))
        names.clear()
        vectors.clear()

    def add(name: str, vector: np.ndarray) -> None:
        names.append(utf8_name(name))
        vectors.append(vector)
        if len(names) == ROWS_PER_GROUP:
            flush()

    with atomic_write(out) as file, pyarrow.parquet.ParquetWriter(file, schema) as writer:
        yield add
        if names:
            flush()
        writer.add_key_value_metadata({PARQUET_ENTRY: json.dumps(metadata)})


def _read_npz(path: Path) -> tuple[np.ndarray, np.ndarray, Metadata]:
    """Return names [N], features [N, F] and metadata; raises PivlError if it is another file."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries, size = archive.infolist(), path.stat().st_size
            unpacked = sum(entry.file_size for entry in entries)
            if unpacked > size + MAX_ARCHIVE_EXCESS:
                raise PivlError(
                    f"{path} has {size / MIB:,.1f} MiB but unpacks to {unpacked / MIB:,.1f} MiB;"
                    " `pivl-distill embed` writes no such file."
                )
            names, features = (_npz_array(archive, name) for name in ("names", "features"))
            found = {entry.filename for entry in entries}
            metadata = {}
            if "metadata.npy" in found:
                metadata = parse_json(str(_npz_array(archive, "metadata")))
        if names.ndim != 1 or names.dtype.kind != "U" or features.dtype.kind != "f":
            raise ValueError("its names are no texts, or its features no numbers")
        if features.ndim != 2 or not 1 <= features.shape[1] <= MAX_FEATURE_DIM:
            raise ValueError(f"its features have the shape {list(features.shape)}")
        if not isinstance(metadata, dict):
            raise ValueError("its metadata is no JSON object")
    except PivlError:
        raise
    except Exception as error:  # zipfile, zlib and numpy each have their own
        raise PivlError(
            f"{path} is not a file of vectors, with `names` and `features` [N, F] as `pivl-distill"
            f" embed` writes them: {one_line(error)}"
        ) from error
    return names, features, metadata


def _npz_array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    """Return an array of a .npz file; memory is bounded by the size of its entry."""
    with archive.open(f"{name}.npy") as file:
        version = np.lib.format.read_magic(file)
        readers = {(1, 0): np.lib.format.read_array_header_1_0}
        readers[2, 0] = np.lib.format.read_array_header_2_0
        if version not in readers:
            raise ValueError(f"{name} has the format {version}")
        shape, fortran, dtype = readers[version](file)
        if dtype.hasobject:
            raise ValueError(f"{name} holds Python objects")
        array = np.frombuffer(file.read(), dtype)
    return array.reshape(shape, order="F" if fortran else "C")

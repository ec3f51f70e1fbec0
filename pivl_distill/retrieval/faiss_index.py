"""A FAISS index over features in Parquet files, for galleries that exceed memory.

`pivl-distill embed` writes these files: a column `name`, and a column `feature` with a list of F
float32. A crop's id is its row number across all files, sorted by file name. The index contains
only ids; names are looked up in the files. See `docs/search.md`, also for vector databases.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pivl_distill.console import track
from pivl_distill.errors import PivlError
from pivl_distill.storage.limits import MAX_FEATURE_DIM

if TYPE_CHECKING:
    import faiss
    from pyarrow.parquet import ParquetFile

BATCH_ROWS = 16384
"""Rows per read: 84 MB for F = 1,280."""

TRAIN_ROWS = 2**18
"""Default number of features that train an index."""


@dataclass(frozen=True)
class FeatureShards:
    """Parquet files with features of one network, read in batches."""

    files: tuple[Path, ...]
    starts: np.ndarray  # int64 [files + 1], first id of each file
    dim: int

    @classmethod
    def open(cls, path: Path) -> FeatureShards:
        """Open one file, or a folder of `*.parquet`. Reads only the metadata."""
        files = tuple(sorted(path.glob("*.parquet"))) if path.is_dir() else (path,)
        if not files or not all(file.is_file() for file in files):
            raise PivlError(f"No Parquet file at {path}; `pivl-distill embed` writes them.")
        dims = {_dim(file): file for file in files}
        if len(dims) > 1:
            sizes = ", ".join(f"{dim} in {file}" for dim, file in sorted(dims.items()))
            raise PivlError(f"The features have different sizes, of several networks: {sizes}.")
        rows = [_parquet_file(file).metadata.num_rows for file in files]
        return cls(files, np.concatenate([[0], np.cumsum(rows, dtype=np.int64)]), *dims)

    def __len__(self) -> int:
        return int(self.starts[-1])

    def batches(self, rows: int = BATCH_ROWS) -> Iterator[np.ndarray]:
        """Yield unit features, float32 [≤ rows, F], in the order of their ids."""
        for file in self.files:
            with _damage_named(file):
                for batch in _parquet_file(file).iter_batches(rows, columns=["feature"]):
                    yield self._unit(batch.column(0), file)

    def sample(self, rows: int) -> np.ndarray:
        """Return up to about `rows` unit features [n, F], from evenly spaced row groups."""
        groups = [
            (file, group)
            for file in self.files
            for group in range(_parquet_file(file).metadata.num_row_groups)
        ]
        wanted = min(len(groups), -(-rows * len(groups) // max(len(self), 1)))
        chosen = np.linspace(0, len(groups) - 1, wanted).astype(int)
        parts = []
        for file, group in (groups[number] for number in chosen):
            with _damage_named(file):
                table = _parquet_file(file).read_row_group(group, columns=["feature"])
                parts += [self._unit(chunk, file) for chunk in table.column(0).chunks]
        return np.concatenate(parts)[:rows]

    def names(self, ids: Iterable[int]) -> list[str]:
        """Return the names of crops; reads the row groups that contain them."""
        return [self._name(int(number)) for number in ids]

    def _name(self, number: int) -> str:
        if not 0 <= number < len(self):
            raise PivlError(f"No crop has id {number}; there are {len(self)} crops.")
        shard = int(np.searchsorted(self.starts, number, side="right")) - 1
        file, row = _parquet_file(self.files[shard]), number - int(self.starts[shard])
        for group in range(file.metadata.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            if row < rows:
                break
            row -= rows
        with _damage_named(self.files[shard]):
            return str(file.read_row_group(group, columns=["name"]).column(0)[row].as_py())

    def _unit(self, column: Any, file: Path) -> np.ndarray:
        features = column.flatten().to_numpy(zero_copy_only=False).reshape(-1, self.dim)
        lengths = np.linalg.norm(features, axis=1, keepdims=True)
        if not np.isfinite(lengths).all():
            raise PivlError(f"{file} contains features that are not finite.")
        return features / np.where(lengths > 0, lengths, 1)


def build_index(
    shards: FeatureShards, factory: str = "Flat", train_rows: int = TRAIN_ROWS
) -> faiss.Index:
    """Build a FAISS index of all shards by inner product, the cosine of unit features.

    `factory` is FAISS's index factory string: "Flat" is exact and needs 4·F bytes per crop;
    "IVF65536,PQ64" needs 64 and is trained on `train_rows` crops. Besides the index, memory holds
    one batch or the training crops. `index.search(queries, k)` takes unit float32 queries [Q, F]
    and returns similarities [Q, k] and ids [Q, k].
    """
    faiss = _faiss()
    try:
        index = faiss.index_factory(shards.dim, factory, faiss.METRIC_INNER_PRODUCT)
    except RuntimeError as error:
        raise PivlError(
            f"FAISS cannot build an index {factory!r} for {shards.dim} dimensions: see the"
            " documentation of its index factory."
        ) from error
    if not index.is_trained:
        index.train(shards.sample(train_rows))
    total = -(-len(shards) // BATCH_ROWS)
    for batch in track(shards.batches(), "Indexing", total=total, unit="batches"):
        index.add(batch)
    return index


def _dim(file: Path) -> int:
    import pyarrow

    schema = _parquet_file(file).schema_arrow
    for name, kind in zip(schema.names, schema.types, strict=True):
        is_list = name == "feature" and pyarrow.types.is_fixed_size_list(kind)
        if not is_list or "name" not in schema.names:
            continue
        if pyarrow.types.is_floating(kind.value_type) and 1 <= kind.list_size <= MAX_FEATURE_DIM:
            return int(kind.list_size)
    raise PivlError(
        f"{file} must have columns `name` and `feature`, a fixed-size list of float32, as"
        " `pivl-distill embed` writes them."
    )


def _parquet_file(file: Path) -> ParquetFile:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise _missing("pyarrow") from error
    try:
        return ParquetFile(file)
    except (ArrowException, OSError) as error:
        raise PivlError(f"{file} is not a Parquet file, or is truncated.") from error


@contextmanager
def _damage_named(file: Path) -> Iterator[None]:
    """Turn what pyarrow raises about damaged contents inside the block into a PivlError."""
    try:
        from pyarrow import ArrowException
    except ImportError as error:
        raise _missing("pyarrow") from error
    try:
        yield
    except (ArrowException, OSError, ValueError) as error:
        raise PivlError(f"{file} is a damaged Parquet file: {error}") from error


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise _missing("faiss") from error
    return faiss


def _missing(module: str) -> PivlError:
    return PivlError(f"Search needs {module}: `pip install 'pivl-distill[search]'`.")

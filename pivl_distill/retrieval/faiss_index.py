"""A FAISS index over features in Parquet files, for galleries that exceed memory.

`pivl-distill embed` writes these files: a column `name`, and a column `feature` with a list of F
float32. A crop's id is its row number across all files, sorted by file name. The index contains
only ids; names are looked up in the files. See `docs/search.md`, also for vector databases.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pivl_distill.console import track
from pivl_distill.errors import PivlError
from pivl_distill.vectors.files import VectorFile
from pivl_distill.vectors.parquet import damage_named, parquet_features, parquet_file
from pivl_distill.vectors.space import VectorSpace, check_comparable

if TYPE_CHECKING:
    import faiss

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
    spaces: tuple[VectorSpace | None, ...] = (None,)
    """Of the networks that made them: one, or several that are compatible. None: an older file."""

    @classmethod
    def open(cls, path: Path) -> FeatureShards:
        """Open one file, or a folder of `*.parquet`. Reads only the metadata.

        Raises PivlError if the features are of networks whose vectors must not be compared.
        """
        files = tuple(sorted(path.glob("*.parquet"))) if path.is_dir() else (path,)
        if not files or not all(file.is_file() for file in files):
            raise PivlError(f"No Parquet file at {path}; `pivl-distill embed` writes them.")
        opened = [VectorFile.open(file) for file in files]
        dims = {file.dim: file.path for file in opened}
        if len(dims) > 1:
            sizes = ", ".join(f"{dim} in {file}" for dim, file in sorted(dims.items()))
            raise PivlError(f"The features have different sizes, of several networks: {sizes}.")
        starts = np.concatenate([[0], np.cumsum([f.count for f in opened], dtype=np.int64)])
        return cls(files, starts, next(iter(dims)), _spaces(opened))

    def check_queries(self, space: VectorSpace | None) -> None:
        """Raise PivlError if queries of the space of an Extractor must not be searched here."""
        for stored in self.spaces:
            check_comparable(stored, f"the gallery of {self.files[0]}", space, "the queries")

    def __len__(self) -> int:
        return int(self.starts[-1])

    def batches(self, rows: int = BATCH_ROWS) -> Iterator[np.ndarray]:
        """Yield unit features, float32 [≤ rows, F], in the order of their ids."""
        for file in self.files:
            with damage_named(file):
                for batch in parquet_file(file).iter_batches(rows, columns=["feature"]):
                    yield self._unit(batch.column(0), file)

    def sample(self, rows: int) -> np.ndarray:
        """Return up to about `rows` unit features [n, F], from evenly spaced row groups."""
        groups = [
            (file, group)
            for file in self.files
            for group in range(parquet_file(file).metadata.num_row_groups)
        ]
        wanted = min(len(groups), -(-rows * len(groups) // max(len(self), 1)))
        chosen = np.linspace(0, len(groups) - 1, wanted).astype(int)
        parts = []
        for file, group in (groups[number] for number in chosen):
            with damage_named(file):
                table = parquet_file(file).read_row_group(group, columns=["feature"])
                parts += [self._unit(chunk, file) for chunk in table.column(0).chunks]
        return np.concatenate([np.empty((0, self.dim), np.float32), *parts])[:rows]

    def names(self, ids: Iterable[int]) -> list[str]:
        """Return the names of crops; reads the row groups that contain them."""
        return [self._name(int(number)) for number in ids]

    def _name(self, number: int) -> str:
        if not 0 <= number < len(self):
            raise PivlError(f"No crop has id {number}; there are {len(self)} crops.")
        shard = int(np.searchsorted(self.starts, number, side="right")) - 1
        file, row = parquet_file(self.files[shard]), number - int(self.starts[shard])
        for group in range(file.metadata.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            if row < rows:
                break
            row -= rows
        with damage_named(self.files[shard]):
            return str(file.read_row_group(group, columns=["name"]).column(0)[row].as_py())

    def _unit(self, column: Any, file: Path) -> np.ndarray:
        features = parquet_features(column, file, self.dim)
        lengths = np.linalg.norm(features, axis=1, keepdims=True)
        if not np.isfinite(lengths).all():
            raise PivlError(f"{file} contains features that are not finite.")
        return features / np.where(lengths > 0, lengths, 1)


def _spaces(files: list[VectorFile]) -> tuple[VectorSpace | None, ...]:
    """Return the distinct spaces; raises PivlError if one is not comparable with the first."""
    first_of = {file.space: str(file.path) for file in reversed(files)}
    first = files[0].space
    for space, path in first_of.items():
        if space != first:
            check_comparable(first, first_of[first], space, path)
    return tuple(first_of)


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


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise PivlError("Search needs faiss: `pip install 'pivl-distill[search]'`.") from error
    return faiss

"""Read Parquet files of vectors: open them, their dimension, their features, their metadata."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pivl_distill.errors import PivlError, one_line
from pivl_distill.storage.limits import MAX_FEATURE_DIM
from pivl_distill.storage.readers import parse_json

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

PARQUET_ENTRY = "pivl_distill"
"""Key of the JSON in the metadata of a file."""


def parquet_facts(path: Path) -> dict[str, Any]:
    """Return the JSON in the metadata of a Parquet file; empty for files of others."""
    entry = (parquet_file(path).metadata.metadata or {}).get(PARQUET_ENTRY.encode())
    try:
        facts = {} if entry is None else parse_json(entry)
    except ValueError as error:
        raise PivlError(f"{path} has damaged metadata: {error}.") from error
    return facts if isinstance(facts, dict) else {}


def parquet_dim(path: Path) -> int:
    """Return F of a Parquet file; raises PivlError unless it has the columns of vectors."""
    import pyarrow

    schema = parquet_file(path).schema_arrow
    for name, kind in zip(schema.names, schema.types, strict=True):
        is_list = name == "feature" and pyarrow.types.is_fixed_size_list(kind)
        if not is_list or "name" not in schema.names:
            continue
        if pyarrow.types.is_floating(kind.value_type) and 1 <= kind.list_size <= MAX_FEATURE_DIM:
            return int(kind.list_size)
    raise PivlError(
        f"{path} must have columns `name` and `feature`, a fixed-size list of float32, as"
        " `pivl-distill embed` writes them."
    )


def parquet_file(path: Path) -> ParquetFile:
    """Open a Parquet file; raises PivlError if it is none, or if pyarrow is missing."""
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise _needs_pyarrow() from error
    try:
        return ParquetFile(path)
    except (ArrowException, OSError) as error:
        raise PivlError(f"{path} is not a Parquet file, or is truncated.") from error


def parquet_features(column: Any, path: Path, dim: int) -> np.ndarray:
    """Return the features [n, `dim`] in a column; raises PivlError if a row has none."""
    values = column.flatten()  # which leaves out rows without a list
    if column.null_count or values.null_count:
        raise PivlError(f"{path} has rows without a feature; write it again.")
    features: np.ndarray = values.to_numpy(zero_copy_only=False).reshape(-1, dim)
    return features


@contextmanager
def damage_named(path: Path) -> Iterator[None]:
    """Turn what pyarrow raises about damaged contents inside the block into a PivlError."""
    try:
        from pyarrow import ArrowException
    except ImportError as error:
        raise _needs_pyarrow() from error
    try:
        yield
    except (ArrowException, OSError, ValueError) as error:
        raise PivlError(f"{path} is a damaged Parquet file: {one_line(error)}") from error


def _needs_pyarrow() -> PivlError:
    return PivlError("Reading Parquet files needs pyarrow: `pip install 'pivl-distill[search]'`.")

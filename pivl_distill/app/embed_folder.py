"""`pivl-distill embed`: the vectors of a folder of crops in one file, .npz or .parquet.

Vectors go to disk as they come, so memory does not grow with the folder, and the file appears whole
or not at all. Images that cannot be read are left out and listed, in the report and in the file.
Several processes write a Parquet file each, which are searched as one.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pivl_distill import __version__
from pivl_distill.console import summary, track
from pivl_distill.data.listing import find_images, require_images
from pivl_distill.distributed import process_group
from pivl_distill.errors import PivlError
from pivl_distill.runtime import Extractor
from pivl_distill.storage.files import atomic_write

logger = logging.getLogger(__name__)

ROWS_PER_GROUP = 4096
Row = Callable[[str, np.ndarray], None]
Metadata = dict[str, Any]
_SHOWN = 10


@dataclass(frozen=True)
class EmbedReport:
    """Where the vectors are, how many, from what, and the images that could not be read."""

    out: Path
    vectors: int
    dim: int
    artifact: str
    device: str
    unreadable: list[str] = field(default_factory=list)


def latest_export() -> Path:
    """The folder of the latest export run; raises PivlError if there is none."""
    from pivl_distill.runs.run import Run

    return Run.latest("export").path


def embed_folder(
    folder: Path, extractor: Extractor, out: Path, camera: int | None = None
) -> EmbedReport:
    """Embed all images in `folder` and below into `out`, a name ending in .npz or .parquet.

    `camera` is that of all images, for networks that take one. Raises PivlError, with nothing
    written, for another ending, an empty folder, or one without any readable image. Several
    processes take a share of the images each, and put its place into the name: `out-2-of-4`.
    """
    write, out = _writer(out), shard_file(out)
    every = find_images(folder)
    require_images(len(every), folder)
    paths = every[process_group.shard(len(every))]
    artifact = extractor.artifact
    metadata: Metadata = {
        "network": extractor.name,
        "artifact": artifact.file,
        "artifact_sha256": artifact.sha256,
        "version": __version__,
        "unreadable": [],
    }
    unreadable: list[str] = metadata["unreadable"]
    cameras = None if camera is None else [camera] * len(paths)
    with write(out, extractor.dim, metadata) as add:
        streamed = extractor.stream_files(paths, cameras)
        for path, vector in track(streamed, "Embedding", total=len(paths), unit="images"):
            name = path.relative_to(folder).as_posix()
            if isinstance(vector, PivlError):
                unreadable.append(name)
            else:
                add(name, vector)
        gathered = process_group.all_gather_object(unreadable)
        unreadable = [name for names in gathered for name in names]
        if len(unreadable) == len(every):
            raise PivlError(f"None of the {len(every)} images in {folder} can be read.")
    vectors = len(every) - len(unreadable)
    return EmbedReport(out, vectors, extractor.dim, artifact.file, extractor.device, unreadable)


def shard_file(out: Path) -> Path:
    """The file of this process; PivlError where there are several and `out` is no Parquet file, or
    where files of another number of processes are beside it: a gallery would hold images twice."""
    if process_group.world_size() > 1 and out.suffix != ".parquet":
        raise PivlError(f"Several processes write Parquet files, not {out}: end it in .parquet.")
    files = _shards(out, process_group.world_size())
    if out.suffix == ".parquet":
        beside = [out, *sorted(out.parent.glob(f"{out.stem}-*-of-*.parquet"))]
        if others := [file for file in beside if file not in files and file.is_file()]:
            raise PivlError(
                f"{others[0]} is of another number of processes; a gallery of both would hold its"
                " images twice. Remove it and what belongs to it, or name another --out."
            )
    return files[process_group.rank()]


def _shards(out: Path, processes: int) -> list[Path]:
    """The file of each process; names are in the order of the images."""
    if processes == 1:
        return [out]
    digits = len(str(processes))
    places = (f"{number:0{digits}}-of-{processes}" for number in range(1, processes + 1))
    return [out.with_name(f"{out.stem}-{place}.parquet") for place in places]


def print_embedded(report: EmbedReport) -> None:
    """Where the vectors are, and the first of the images that have none."""
    for name in report.unreadable[:_SHOWN]:
        logger.warning(f"Cannot read {name}; it has no vector.")
    if len(report.unreadable) > _SHOWN:
        logger.warning(
            f"… and {len(report.unreadable) - _SHOWN:,} more; {report.out} lists them all."
        )
    metadata: dict[str, object] = {
        "file": report.out
        if process_group.world_size() == 1
        else f"{report.out} and the others' beside it",
        "vectors": f"{report.vectors:,} of {report.dim} values, of length one",
        "by": f"{report.artifact} on the {report.device}",
    }
    if report.unreadable:
        metadata["unreadable images"] = f"{len(report.unreadable):,}, left out"
    summary("Embedded", metadata)


def _writer(out: Path) -> Callable[[Path, int, Metadata], AbstractContextManager[Row]]:
    if out.suffix == ".npz":
        return _npz
    if out.suffix != ".parquet":
        raise PivlError(f"{out} must end in .npz (numpy) or .parquet.")
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise PivlError(
            "Parquet files need pyarrow: `pip install 'pivl-distill[search]'`, or name a file"
            " that ends in .npz."
        ) from error
    return _parquet


@contextmanager
def _npz(out: Path, dim: int, metadata: Metadata) -> Iterator[Row]:
    """`names` [N], `features` float32 [N, dim], and `metadata` as JSON.

    How many rows there are stands at the head of an array in a .npz file, so they wait in a file
    without a name beside it.
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
def _parquet(out: Path, dim: int, metadata: Metadata) -> Iterator[Row]:
    """Columns `name` and `feature`, a list of `dim` float32; `metadata` as metadata of the file."""
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
        names.append(name)
        vectors.append(vector)
        if len(names) == ROWS_PER_GROUP:
            flush()

    with atomic_write(out) as file, pyarrow.parquet.ParquetWriter(file, schema) as writer:
        yield add
        if names:
            flush()
        writer.add_key_value_metadata({"pivl_distill": json.dumps(metadata)})

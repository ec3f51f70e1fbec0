"""`pivl-distill embed`: write the embeddings of a folder of crops to a .npz or .parquet file.

Embeddings are written as they are computed, so memory does not grow with the folder; the write is
atomic. Unreadable images are left out and listed in the report and in the file. Several processes
write one Parquet file each, which are searched together.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pivl_distill import __version__
from pivl_distill.console import summary, track
from pivl_distill.data.listing import find_images, require_images
from pivl_distill.data.searched import Searched
from pivl_distill.data.unused import find_unused, log_unused
from pivl_distill.distributed import process_group
from pivl_distill.errors import PivlError
from pivl_distill.runtime import Extractor
from pivl_distill.storage.files import remove_abandoned
from pivl_distill.vectors.files import Metadata, vector_writer

if TYPE_CHECKING:
    from pivl_distill.config import Preprocessing
    from pivl_distill.foreign import FileEmbedder

logger = logging.getLogger(__name__)

_SHOWN = 10


@dataclass(frozen=True)
class EmbedReport:
    """The file, the number of embeddings, the network, and the unreadable images."""

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


def open_embedder(
    export_dir: Path | None,
    network: Path | None,
    preprocessing: Preprocessing | None,
    precision: str,
    device: Literal["auto", "cpu", "cuda"],
) -> Extractor | FileEmbedder:
    """Load what embeds: an export, by default the latest, or a network of others.

    Args:
        export_dir: folder of an export.
        network: ONNX file or OpenVINO IR of others; loads torch.
        preprocessing: of that file.
        precision: of an export, as for `Extractor`.
        device: where to compute; networks of others run on the CPU by default.

    Raises: PivlError if the options contradict each other, or the file cannot be used.
    """
    if network is None:
        if preprocessing is not None:
            raise PivlError("An export declares its preprocessing; name another's with --network.")
        return Extractor(export_dir or latest_export(), precision=precision, device=device)
    if export_dir is not None or precision != "auto":
        raise PivlError("--network is a file of others; remove --export and --precision.")
    from pivl_distill.foreign import FileEmbedder, load_foreign, load_preprocessing

    place: Literal["cpu", "cuda"] = "cuda" if device == "cuda" else "cpu"
    return FileEmbedder(load_foreign(network, preprocessing or load_preprocessing(), place))


def embed_folder(
    folder: Path, extractor: Extractor | FileEmbedder, out: Path, camera: int | None = None
) -> EmbedReport:
    """Embed all images in `folder` and its subfolders into `out`, a .npz or .parquet file.

    `camera` is the camera id of all images, for networks that use it. Each of several processes
    embeds a shard of the images into a file such as `out-2-of-4.parquet`. Raises PivlError, with
    nothing written, for another suffix or a folder without readable images.
    """
    write, out = vector_writer(out), shard_file(out)
    every = find_images(folder)
    require_images(len(every), folder)
    log_unused(find_unused(Searched((folder,)), every), folder)
    paths = every[process_group.shard(len(every))]
    artifact = extractor.artifact
    metadata: Metadata = {
        "network": extractor.name,
        "artifact": artifact.file,
        "artifact_sha256": artifact.sha256,
        **(extractor.space.metadata() if extractor.space else {}),
        "version": __version__,
        "unreadable": [],
    }
    unreadable: list[str] = metadata["unreadable"]
    cameras = None if camera is None else [camera] * len(paths)
    remove_abandoned(out)
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
    """Return the file of this process.

    Raises PivlError if several processes would write a .npz file, or if there are files of another
    number of processes in the folder: together they would contain images twice.
    """
    if process_group.world_size() > 1 and out.suffix != ".parquet":
        raise PivlError(
            f"Several processes write Parquet files, not {out}: use the suffix .parquet."
        )
    files = _shards(out, process_group.world_size())
    if out.suffix == ".parquet":
        existing = [out, *sorted(out.parent.glob(f"{out.stem}-*-of-*.parquet"))]
        if others := [file for file in existing if file not in files and file.is_file()]:
            raise PivlError(
                f"{others[0]} was written by another number of processes; the gallery would contain"
                " images twice. Remove it and its shards, or pass another --out."
            )
    return files[process_group.rank()]


def _shards(out: Path, processes: int) -> list[Path]:
    """The file of each process; their names sort in the order of the images."""
    if processes == 1:
        return [out]
    digits = len(str(processes))
    places = (f"{number:0{digits}}-of-{processes}" for number in range(1, processes + 1))
    return [out.with_name(f"{out.stem}-{place}.parquet") for place in places]


def print_embedded(report: EmbedReport) -> None:
    """Print where the embeddings are, and log the first unreadable images."""
    for name in report.unreadable[:_SHOWN]:
        logger.warning(f"Cannot read {name}; it has no embedding.")
    if len(report.unreadable) > _SHOWN:
        logger.warning(
            f"… and {len(report.unreadable) - _SHOWN:,} more; {report.out} lists them all."
        )
    metadata: dict[str, object] = {
        "file": report.out
        if process_group.world_size() == 1
        else f"{report.out} and the files of the other processes",
        "embeddings": f"{report.vectors:,} of {report.dim} values, of unit length",
        "by": f"{report.artifact} on the {report.device}",
    }
    if report.unreadable:
        metadata["unreadable images"] = f"{len(report.unreadable):,}, left out"
    summary("Embedded", metadata)

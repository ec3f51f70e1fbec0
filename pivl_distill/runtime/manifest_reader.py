"""What deployment needs of manifest.json, format 2, read with the standard library and numpy.

`export` writes the file and holds its full declaration; here is only what it takes to feed a
network, to trust it and to interpret what it returns. Fields that are not needed are not looked at.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pivl_distill.errors import PivlError, unknown_name
from pivl_distill.runtime.onnx_session import ExecutionDevice
from pivl_distill.storage.files import sha256

MANIFEST_FILE = "manifest.json"
MANIFEST_FORMAT = 2

PRECISION_PREFERENCE: dict[ExecutionDevice, tuple[str, ...]] = {
    "cpu": ("fp32", "fp16", "int8"),
    "cuda": ("fp16", "fp32"),
}
"""What "auto" takes first. On GPUs fp16 is fast and as good. On CPUs it is slower than fp32; INT8
may be faster, by how much depends on the processor, and costs some accuracy: it must be named."""


@dataclass(frozen=True)
class InputSpec:
    """The graph's input."""

    name: str
    size_hw: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    preprocessing_in_graph: bool
    max_batch: int | None
    cameras: int


@dataclass(frozen=True)
class Threshold:
    """Pairs of cosine ≥ `cosine` are called one person; `far` of impostor pairs are then wrongly.

    `cosine` is None where there were too few impostor pairs to measure it.
    """

    far: float
    cosine: float | None
    impostor_pairs: int


@dataclass(frozen=True, eq=False)
class Artifact:
    """One file of an export, and what is known of it."""

    file: str
    sha256: str
    bytes: int
    kind: str
    precision: str
    runs_on: str
    status: str
    failure: str | None
    golden_vector: np.ndarray | None
    golden_vector_sha256: str | None
    thresholds: tuple[Threshold, ...]

    def __str__(self) -> str:
        where = "" if self.runs_on == "any" else f" for {self.runs_on}"
        return f"{self.file} ({self.precision} {self.kind}{where}, {self.status})"


@dataclass(frozen=True)
class Manifest:
    """One export folder; `golden_crop` is a file name and its SHA-256."""

    folder: Path
    name: str
    input: InputSpec
    output: str
    dim: int
    golden_crop: tuple[str, str]
    artifacts: tuple[Artifact, ...]


def read_manifest(folder: Path) -> Manifest:
    """Read `folder`/manifest.json; PivlError if it is missing, of another format or damaged."""
    path = folder / MANIFEST_FILE
    if not path.is_file():
        raise PivlError(f"'{folder}' has no {MANIFEST_FILE}; name a folder written by an export.")
    try:
        metadata = json.loads(path.read_bytes())
        found = metadata["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise PivlError(f"'{path}' is not a manifest of an export: {error!r}.") from error
    if found != MANIFEST_FORMAT:
        raise PivlError(
            f"'{path}' has manifest format {found}, but this version reads format"
            f" {MANIFEST_FORMAT}; export again, or install the version that wrote the export."
        )
    try:
        return _manifest(folder, metadata)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise PivlError(f"'{path}' is damaged ({error!r}); export again.") from error


def choose_artifact(
    manifest: Manifest, device: ExecutionDevice, precision: str, allow_unverified: bool
) -> Artifact:
    """Return the ONNX file to run on `device`, by `PRECISION_PREFERENCE` or a named precision.

    Unverified files come after verified ones, and only with `allow_unverified`. Raises PivlError
    that says why none of the export's files will do.
    """
    known = sorted({p for preferred in PRECISION_PREFERENCE.values() for p in preferred})
    if precision not in ("auto", *known):
        raise unknown_name("precision", precision, ["auto", *known])
    order = PRECISION_PREFERENCE[device] if precision == "auto" else (precision,)
    runnable = [
        artifact
        for artifact in manifest.artifacts
        if artifact.kind == "onnx"
        and artifact.runs_on in ("any", device)
        and artifact.precision in order
    ]
    accepted = ("verified", "unverified") if allow_unverified else ("verified",)
    usable = [artifact for artifact in runnable if artifact.status in accepted]
    if usable:
        return min(usable, key=lambda a: (accepted.index(a.status), order.index(a.precision)))
    if runnable:
        raise _refused(runnable[0])
    wanted = "ONNX file" if precision == "auto" else f"{precision} ONNX file"
    raise PivlError(
        f"'{manifest.folder}' holds no {wanted} for the {device}, only "
        f"{', '.join(map(str, manifest.artifacts)) or 'nothing'}; copy the whole export, or"
        " export again with --precision."
    )


def check_file(path: Path, size: int, digest: str) -> None:
    """PivlError unless a file is there, whole and the one that the manifest describes."""
    if not path.is_file():
        raise PivlError(f"{path} is missing, though the manifest names it; copy the whole export.")
    if (found := path.stat().st_size) < size:
        raise PivlError(f"{path} is cut off: {found:,} of {size:,} bytes; copy it again.")
    if sha256(path) != digest:
        raise PivlError(f"{path} is not the file its manifest describes; copy or export it again.")


def vector_sha256(vector: np.ndarray) -> str:
    """SHA-256 (hex) over the float32 little-endian bytes of a vector."""
    return hashlib.sha256(vector.astype("<f4").tobytes()).hexdigest()


def _refused(artifact: Artifact) -> PivlError:
    if artifact.status == "unverified":
        return PivlError(
            f"{artifact.file} is unverified: nothing has measured yet what it does to retrieval."
            " Export it again where it can run, or allow unverified files if you must."
        )
    return PivlError(
        f"{artifact.file} failed its verification and must not be used: "
        f"{artifact.failure or 'no reason is given'}"
    )


def _manifest(folder: Path, metadata: dict[str, Any]) -> Manifest:
    golden = metadata["golden_crop"]
    return Manifest(
        folder=folder,
        name=str(metadata["name"]),
        input=_input(metadata["input"]),
        output=str(metadata["output"]["name"]),
        dim=int(metadata["output"]["dim"]),
        golden_crop=(_file_name(golden["file"]), str(golden["sha256"])),
        artifacts=tuple(_artifact(artifact) for artifact in metadata["artifacts"]),
    )


def _input(metadata: dict[str, Any]) -> InputSpec:
    if metadata["colour_order"] != "RGB":
        raise ValueError(f"colour order {metadata['colour_order']!r} instead of RGB")
    in_graph = bool(metadata["preprocessing_in_graph"])
    form = ("NHWC", "uint8") if in_graph else ("NCHW", "float32")
    if (metadata["layout"], metadata["dtype"]) != form:
        raise ValueError(
            f"input {metadata['layout']} {metadata['dtype']} instead of {' '.join(form)}"
        )
    height, width = metadata["size_hw"]
    return InputSpec(
        name=str(metadata["name"]),
        size_hw=(int(height), int(width)),
        mean=tuple(float(value) for value in metadata["mean"]),
        std=tuple(float(value) for value in metadata["std"]),
        preprocessing_in_graph=in_graph,
        max_batch=None if metadata["max_batch"] is None else int(metadata["max_batch"]),
        cameras=int(metadata["cameras"]),
    )


def _artifact(metadata: dict[str, Any]) -> Artifact:
    vector = metadata["golden_vector"]
    return Artifact(
        file=_file_name(metadata["file"]),
        sha256=str(metadata["sha256"]),
        bytes=int(metadata["bytes"]),
        kind=str(metadata["kind"]),
        precision=str(metadata["precision"]),
        runs_on=str(metadata["runs_on"]),
        status=str(metadata["status"]),
        failure=metadata["failure"],
        golden_vector=None if vector is None else np.array(vector, dtype=np.float32),
        golden_vector_sha256=metadata["golden_vector_sha256"],
        thresholds=tuple(_threshold(threshold) for threshold in metadata["thresholds"]),
    )


def _threshold(metadata: dict[str, Any]) -> Threshold:
    cosine = metadata["cosine"]
    return Threshold(
        far=float(metadata["far"]),
        cosine=None if cosine is None else float(cosine),
        impostor_pairs=int(metadata["impostor_pairs"]),
    )


def _file_name(name: str) -> str:
    """A name inside the folder, never a path out of it."""
    if Path(name).name != name:
        raise ValueError(f"{name!r} is no plain file name")
    return name

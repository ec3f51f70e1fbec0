"""Read the fields of manifest.json, format 2, that inference needs; the standard library and numpy.

`export` writes the file and declares it in full. Here are only the fields needed to feed a network,
to verify its file and to interpret its features. All other fields are ignored.
"""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pivl_distill.errors import PivlError, unknown_name
from pivl_distill.runtime.onnx_session import ExecutionDevice
from pivl_distill.storage.filenames import MANIFEST_FILE
from pivl_distill.storage.finite import find_nonfinite_numbers
from pivl_distill.storage.limits import (
    MAX_CAMERAS,
    MAX_FEATURE_DIM,
    MAX_INPUT_PIXELS,
)
from pivl_distill.storage.numbers import finite_number, three_numbers, whole_number
from pivl_distill.storage.paths import plain_name, shown
from pivl_distill.storage.readers import check_inside, read_json
from pivl_distill.vectors.space import VectorSpace, space_from_metadata

MANIFEST_FORMAT = 2
RUNNABLE_KINDS = ("onnx", "openvino")
"""Kinds of file that the Extractor runs."""

PRECISION_PREFERENCE: dict[ExecutionDevice, tuple[str, ...]] = {
    "cpu": ("fp32", "fp16", "int8"),
    "cuda": ("fp16", "fp32"),
}
"""Order of preference of precision "auto". On GPUs fp16 is fast and as accurate as fp32; on CPUs it
is slower. INT8 costs some accuracy and its speed depends on the processor, so it comes last on the
CPU and is never chosen on CUDA."""


@dataclass(frozen=True)
class InputSpec:
    """How to feed crops to the graph."""

    name: str
    """Name of the graph's image input."""
    size_hw: tuple[int, int]
    """Height and width in pixels, to which crops are resized."""
    mean: tuple[float, ...]
    """Per channel, RGB, for pixels in 0..1."""
    std: tuple[float, ...]
    """Per channel, RGB, for pixels in 0..1."""
    preprocessing_in_graph: bool
    """True: the graph takes uint8 [B, H, W, 3] and normalises it. False: it takes float32
    [B, 3, H, W], (x / 255 − mean) / std."""
    max_batch: int | None
    """Most crops per run; None: no limit."""
    cameras: int
    """Number of camera ids, which a second input takes as int64 [B] from 0; 0: no such input."""


@dataclass(frozen=True)
class Threshold:
    """An operating threshold: pairs of cosine ≥ `cosine` count as one person."""

    far: float
    """False-accept rate: the share of impostor pairs that are accepted."""
    cosine: float | None
    """None if there were too few impostor pairs to measure it."""
    impostor_pairs: int
    """Number of pairs of different people that the rate was measured on."""


@dataclass(frozen=True)
class StoredFile:
    """A file in the export folder: name, SHA-256 in hexadecimal, and size."""

    file: str
    sha256: str
    bytes: int


@dataclass(frozen=True, eq=False)
class Artifact:
    """One file of an export."""

    file: str
    """File name in the export folder."""
    sha256: str
    """Hex digest of the file."""
    bytes: int
    """File size."""
    kind: str
    """"onnx", "openvino", "tensorrt" or "tensorrt-rtx"."""
    precision: str
    """"fp32", "fp16" or "int8"."""
    runs_on: str
    """"any", "cpu" or "tensorrt"."""
    status: str
    """"verified", "unverified" (could not be run when it was exported) or "failed"."""
    failure: str | None
    """Why verification failed."""
    golden_vector: np.ndarray | None
    """Feature of the golden crop, float32 [F], not normalised."""
    golden_vector_sha256: str | None
    """`vector_sha256` of it."""
    thresholds: tuple[Threshold, ...]
    """Measured with this file, one per false-accept rate."""
    weights: StoredFile | None = None
    """The second file of an OpenVINO IR."""

    def __str__(self) -> str:
        where = "" if self.runs_on == "any" else f" for {self.runs_on}"
        return f"{self.file} ({self.precision} {self.kind}{where}, {self.status})"


@dataclass(frozen=True)
class Manifest:
    """One export folder."""

    folder: Path
    name: str
    """Name of the network."""
    input: InputSpec
    output: str
    """Name of the graph's output."""
    dim: int
    """Length F of a feature."""
    space: VectorSpace | None
    """Of the features, whatever the precision; None in exports of earlier versions."""
    golden_crop: tuple[str, str]
    """File name and SHA-256 of the golden crop."""
    artifacts: tuple[Artifact, ...]


def read_manifest(folder: Path) -> Manifest:
    """Read manifest.json; raise PivlError if it is missing, of another format or damaged.

    A manifest with a number that is not finite is damaged.
    """
    path = folder / MANIFEST_FILE
    if not path.is_file():
        raise PivlError(f"'{folder}' has no {MANIFEST_FILE}; name an export folder.")
    check_inside(path)
    metadata = read_json(path, "a manifest of an export")
    if "format" not in metadata:
        raise PivlError(f"{path} is not a manifest of an export: it has no 'format'.")
    if (found := metadata["format"]) != MANIFEST_FORMAT:
        raise PivlError(
            f"'{path}' has manifest format {shown(found)}, but this version reads format"
            f" {MANIFEST_FORMAT}; export again, or install the version that wrote the export."
        )
    if broken := next(find_nonfinite_numbers(metadata), None):
        raise PivlError(f"'{path}' is damaged ({broken}); export again.")
    try:
        return _manifest(folder, metadata)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise PivlError(f"'{path}' is damaged ({error!r}); export again.") from error


def choose_artifact(
    manifest: Manifest, device: ExecutionDevice, precision: str, allow_unverified: bool
) -> Artifact:
    """Return the file to run on `device`, by `PRECISION_PREFERENCE` or a named precision.

    Verified files come before unverified ones, which need `allow_unverified`. Raises PivlError,
    with the reason, if no file of the export can be used.
    """
    known = sorted({p for preferred in PRECISION_PREFERENCE.values() for p in preferred})
    if precision not in ("auto", *known):
        raise unknown_name("precision", precision, ["auto", *known])
    order = PRECISION_PREFERENCE[device] if precision == "auto" else (precision,)
    runnable = [
        artifact
        for artifact in manifest.artifacts
        if artifact.kind in RUNNABLE_KINDS
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


def vector_sha256(vector: np.ndarray) -> str:
    """Return the SHA-256 (hex) of a vector's little-endian float32 bytes."""
    return hashlib.sha256(vector.astype("<f4").tobytes()).hexdigest()


def _refused(artifact: Artifact) -> PivlError:
    if artifact.status == "unverified":
        return PivlError(
            f"{artifact.file} is unverified: its retrieval accuracy has not been measured. Export"
            " it again on a machine that can run it, or pass allow_unverified=True."
        )
    return PivlError(
        f"{artifact.file} failed its verification and must not be used: "
        f"{artifact.failure or 'no reason recorded'}"
    )


def _manifest(folder: Path, metadata: dict[str, Any]) -> Manifest:
    golden = metadata["golden_crop"]
    return Manifest(
        folder=folder,
        name=str(metadata["name"]),
        input=_input(metadata["input"]),
        output=str(metadata["output"]["name"]),
        dim=whole_number(metadata["output"]["dim"], "output dim", MAX_FEATURE_DIM),
        space=space_from_metadata(metadata),
        golden_crop=(plain_name(golden["file"]), str(golden["sha256"])),
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
    height, width = (
        whole_number(side, "size_hw", MAX_INPUT_PIXELS) for side in metadata["size_hw"]
    )
    if height * width > MAX_INPUT_PIXELS:
        raise ValueError(f"size_hw has {height * width:,} pixels, more than {MAX_INPUT_PIXELS:,}")
    max_batch = metadata["max_batch"]
    return InputSpec(
        name=str(metadata["name"]),
        size_hw=(height, width),
        mean=three_numbers(metadata["mean"], "mean"),
        std=three_numbers(metadata["std"], "std"),
        preprocessing_in_graph=in_graph,
        max_batch=None if max_batch is None else whole_number(max_batch, "max_batch", sys.maxsize),
        cameras=whole_number(metadata["cameras"], "cameras", MAX_CAMERAS, least=0),
    )


def _artifact(metadata: dict[str, Any]) -> Artifact:
    vector = metadata["golden_vector"]
    return Artifact(
        file=plain_name(metadata["file"]),
        sha256=str(metadata["sha256"]),
        bytes=whole_number(metadata["bytes"], "bytes", sys.maxsize),
        kind=str(metadata["kind"]),
        precision=str(metadata["precision"]),
        runs_on=str(metadata["runs_on"]),
        status=str(metadata["status"]),
        failure=metadata["failure"],
        golden_vector=None if vector is None else np.array(vector, dtype=np.float32),
        golden_vector_sha256=metadata["golden_vector_sha256"],
        thresholds=tuple(_threshold(threshold) for threshold in metadata["thresholds"]),
        weights=None if (stored := metadata.get("weights")) is None else _stored_file(stored),
    )


def _stored_file(metadata: dict[str, Any]) -> StoredFile:
    return StoredFile(
        file=plain_name(metadata["file"]),
        sha256=str(metadata["sha256"]),
        bytes=whole_number(metadata["bytes"], "bytes", sys.maxsize),
    )


def _threshold(metadata: dict[str, Any]) -> Threshold:
    cosine = metadata["cosine"]
    return Threshold(
        far=finite_number(metadata["far"], "far"),
        cosine=None if cosine is None else finite_number(cosine, "cosine"),
        impostor_pairs=whole_number(
            metadata["impostor_pairs"], "impostor_pairs", sys.maxsize, least=0
        ),
    )

"""manifest.json: all that whoever deploys an export needs to know, beside the files it describes.

It is written for failed exports too, with the failure in it, so that a folder found later says
which of its files may be used. No dates: the same export twice gives the same manifest, but for
timings.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from export.accuracy import AccuracyBudget, ExportPrecision, FeatureParity, RetrievalComparison
from export.cost import Cost
from export.latency import Latency
from pivl_distill.errors import PivlError
from pivl_distill.retrieval.thresholds import OperatingThreshold
from pivl_distill.storage.filenames import MANIFEST_FILE
from pivl_distill.storage.files import sha256, write_text

ArtifactKind = Literal["onnx", "tensorrt", "tensorrt-rtx"]
ExecutionTarget = Literal["any", "cpu", "tensorrt"]
_PACKAGES = (
    "pivl-distill",
    "torch",
    "timm",
    "onnx",
    "onnxscript",
    "onnxruntime-gpu",
    "onnxruntime",
)


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class InputSpec(_Section):
    """RGB crops of `size_hw` pixels, which the caller has resized as `resizing` says.

    With preprocessing in the graph they go in as they are, uint8 [batch, H, W, 3]. Without, they
    are divided by 255, then (x − mean) / std per channel, float32 [batch, 3, H, W]. Where `cameras`
    is not 0, a second input int64 [batch] takes each crop's camera, from 0 on.
    """

    name: str
    size_hw: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    colour_order: Literal["RGB"] = "RGB"
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    dtype: Literal["float32", "uint8"] = "float32"
    preprocessing_in_graph: bool = False
    resizing: Literal["by the caller: bilinear with antialiasing, as Pillow's BILINEAR"] = (
        "by the caller: bilinear with antialiasing, as Pillow's BILINEAR"
    )
    min_batch: int = 1
    max_batch: int | None = None
    cameras: int = 0


class OutputSpec(_Section):
    """Features of `dim` values, either of unit length or as the network gives them."""

    name: str
    dim: int
    l2_normalised: bool


class TestData(_Section):
    """What mAP, Rank-1 and thresholds were measured on.

    `spec` is as `--data` takes it, `fingerprint` the SHA-256 of query and gallery: names, sizes,
    identities and cameras.
    """

    spec: str
    name: str
    fingerprint: str


class GoldenCrop(_Section):
    """The picture whose vector every artifact states."""

    file: str
    sha256: str


class Artifact(_Section):
    """One file, what it runs on, and what it was seen to do.

    `verified`: it was run here and is within budget. `failed`: it was run and is not, or could not
    be, for the reason in `failure`. `unverified`: it cannot be run here. `golden_vector` is its own
    output for the golden crop (of camera 0), before any normalisation outside the graph, and the
    digest is over its float32 little-endian bytes. `float32_nodes` are the nodes left in
    float32 because quantising them lost too much accuracy. The file accepts batches of `min_batch`
    to `max_batch` (None: no limit).
    """

    file: str
    sha256: str
    bytes: int
    kind: ArtifactKind
    precision: ExportPrecision
    runs_on: ExecutionTarget
    min_batch: int = 1
    max_batch: int | None = None
    status: Literal["verified", "unverified", "failed"] = "unverified"
    failure: str | None = None
    golden_vector: tuple[float, ...] | None = None
    golden_vector_sha256: str | None = None
    parity: FeatureParity | None = None
    retrieval: RetrievalComparison | None = None
    thresholds: tuple[OperatingThreshold, ...] = ()
    latency: tuple[Latency, ...] = ()
    float32_nodes: tuple[str, ...] = ()

    @classmethod
    def from_file(
        cls,
        path: Path,
        precision: ExportPrecision,
        runs_on: ExecutionTarget,
        *,
        kind: ArtifactKind,
        float32_nodes: Sequence[str],
        **measured: Any,
    ) -> Artifact:
        """The file at `path`; unverified unless something was `measured`."""
        return cls(
            file=path.name,
            sha256=sha256(path),
            bytes=path.stat().st_size,
            kind=kind,
            precision=precision,
            runs_on=runs_on,
            float32_nodes=tuple(float32_nodes),
            **measured,
        )


class Manifest(_Section):
    """One export folder. `source` maps file names to SHA-256 digests, `budgets` are by precision.

    `cost` is the bare network's, and proven to be that of every ONNX file, `pooling` what makes its
    last map one vector. `opset` is that of every ONNX file. Those two and `data` are None
    where an earlier version did not record them, or nobody could say.
    """

    format: Literal[2] = 2
    name: str
    pooling: str | None = None
    opset: int | None = None
    data: TestData | None = None
    input: InputSpec
    output: OutputSpec
    golden_crop: GoldenCrop
    artifacts: tuple[Artifact, ...]
    source: dict[str, str]
    budgets: dict[ExportPrecision, AccuracyBudget]
    cost: Cost
    versions: dict[str, str]

    def artifact(self, file: str) -> Artifact:
        """The artifact of this file name; KeyError if there is none."""
        return {artifact.file: artifact for artifact in self.artifacts}[file]

    def with_artifacts(self, artifacts: Iterable[Artifact]) -> Manifest:
        """Return a copy with these artifacts in place of the present ones."""
        return self.model_copy(update={"artifacts": tuple(artifacts)})

    def without(self, file: str) -> Manifest:
        """Return a copy without the artifact of this file name, if there is one."""
        return self.with_artifacts(a for a in self.artifacts if a.file != file)


def write_manifest(folder: Path, manifest: Manifest) -> Path:
    """Write `folder`/manifest.json atomically."""
    path = folder / MANIFEST_FILE
    write_text(path, manifest.model_dump_json(indent=2) + "\n")
    return path


def read_manifest(folder: Path) -> Manifest:
    """Read `folder`/manifest.json; PivlError if it is missing or not a manifest."""
    path = folder / MANIFEST_FILE
    if not path.is_file():
        raise PivlError(f"'{folder}' has no {MANIFEST_FILE}; name a folder written by an export.")
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise PivlError(f"'{path}' is not a manifest of this version: {error}") from error


def installed_versions() -> dict[str, str]:
    """Versions of the packages that decide what an export contains."""
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions

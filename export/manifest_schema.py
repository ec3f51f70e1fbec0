"""The complete schema of manifest.json, for writing an export and reading it back on this side.

The manifest describes every file of an export folder for deployment. It is written for failed
exports too, with the reason, so that it always states which files may be used. It has no dates:
exporting twice gives the same manifest except for timings.

`pivl_distill.runtime.manifest_reader` is the second reader of the same file. It needs neither
pydantic nor torch and reads only the fields that running a file requires. A field that it reads
must not be renamed or removed here without changing it and `MANIFEST_FORMAT`.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, ValidationError

from export.accuracy import AccuracyBudget, ExportPrecision, FeatureParity, RetrievalComparison
from export.consumer_schema import ConsumerFolder, FileName, Section, Status
from export.cost import Cost
from export.latency import Latency
from pivl_distill.errors import PivlError, list_mistakes
from pivl_distill.retrieval.robustness import RobustnessCard
from pivl_distill.retrieval.thresholds import OperatingThreshold
from pivl_distill.storage.filenames import MANIFEST_FILE
from pivl_distill.storage.files import require_finite, sha256, write_text
from pivl_distill.storage.finite import find_nonfinite_numbers
from pivl_distill.storage.limits import MAX_JSON_BYTES
from pivl_distill.storage.readers import read_bytes
from pivl_distill.vectors.space import ID_PATTERN, MAX_COMPATIBLE, VectorSpace

ArtifactKind = Literal["onnx", "openvino", "tensorrt", "tensorrt-rtx"]
"""File type: an ONNX file, an OpenVINO IR, or an engine of one of the two libraries."""
ExecutionTarget = Literal["any", "cpu", "tensorrt"]
"""Where a file can run: anywhere, on CPUs only, or with TensorRT only."""
SpaceId = Annotated[str, StringConstraints(pattern=ID_PATTERN)]
_PACKAGES = (
    "pivl-distill",
    "torch",
    "timm",
    "onnx",
    "onnxscript",
    "onnxruntime-gpu",
    "onnxruntime",
)


class InputSpec(Section):
    """RGB crops of `size_hw` pixels, resized by the caller as described in `resizing`.

    With preprocessing in the graph the input is uint8 [batch, H, W, 3]. Without, the caller divides
    by 255 and computes (x − mean) / std per channel: float32 [batch, 3, H, W]. If `cameras` is not
    0, a second input int64 [batch] takes camera ids in 0 … `cameras` − 1.
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


class OutputSpec(Section):
    """Features [batch, `dim`], L2-normalised or not."""

    name: str
    dim: int
    l2_normalised: bool


class TestData(Section):
    """The data set that mAP, Rank-1 and thresholds were measured on.

    `spec` is the value of `--data`. `fingerprint` is the SHA-256 over file names, file sizes,
    identities and camera ids of query and gallery; of the training split if retrieval was not
    measured (`Manifest.not_measured`).
    """

    spec: str
    name: str
    fingerprint: str


class GoldenCrop(Section):
    """The image whose features every artifact records; see `export.golden_crop`."""

    file: FileName
    sha256: str


class StoredFile(Section):
    """A file in the export folder."""

    file: FileName
    sha256: str
    bytes: int


class Artifact(StoredFile):
    """One exported file: where it runs, and its measurements.

    Status `verified`: it ran here and is within budget. `failed`: it exceeded its budget or could
    not run; `failure` has the reason. `unverified`: this machine cannot run it. `golden_vector` is
    the file's own output for the golden crop (camera id 0), before any normalisation outside the
    graph; its SHA-256 is over the float32 little-endian bytes. `float32_nodes` are the nodes of an
    INT8 file left in float32, because quantising them lost too much accuracy. `robustness` is
    None unless it was asked for. The file accepts
    batches of `min_batch` to `max_batch` (None: no limit). `weights` is the second file of an
    OpenVINO IR.
    """

    kind: ArtifactKind
    precision: ExportPrecision
    runs_on: ExecutionTarget
    min_batch: int = 1
    max_batch: int | None = None
    status: Status = "unverified"
    failure: str | None = None
    golden_vector: tuple[float, ...] | None = None
    golden_vector_sha256: str | None = None
    parity: FeatureParity | None = None
    retrieval: RetrievalComparison | None = None
    thresholds: tuple[OperatingThreshold, ...] = ()
    latency: tuple[Latency, ...] = ()
    robustness: RobustnessCard | None = None
    float32_nodes: tuple[str, ...] = ()
    weights: StoredFile | None = None

    @property
    def files(self) -> tuple[StoredFile, ...]:
        """The file, and its weights if they are a file of their own."""
        return (self,) if self.weights is None else (self, self.weights)

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
        """Describe the file at `path`, unverified unless `measured` has another status.

        Args:
            path: the file; its name, size and SHA-256 are recorded.
            precision: see `Artifact`; likewise `runs_on`, `kind` and `float32_nodes`.
            runs_on: where the file can run.
            kind: file type.
            float32_nodes: nodes left in float32.
            **measured: further fields, such as `status` and `parity`.
        """
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


class Manifest(Section):
    """One export folder.

    `source` maps the checkpoint's file name to its SHA-256. `cost` is that of the bare network and
    equals that of every ONNX file. `pooling` names how the last feature map becomes a vector.
    `pooling`, `opset` and `data` are None if unknown. `not_measured` says why the artifacts have no
    retrieval scores and thresholds, and what was verified instead; None if they have.
    `vector_space` is the id of the space that the vectors of every file are in, whatever its
    precision, and `compatible_with` lists spaces whose galleries the network was trained for; None
    and empty in manifests of earlier versions. `consumers` are folders for other programs.
    """

    format: Literal[2] = 2
    name: str
    pooling: str | None = None
    opset: int | None = None
    data: TestData | None = None
    not_measured: str | None = None
    input: InputSpec
    output: OutputSpec
    vector_space: SpaceId | None = None
    compatible_with: Annotated[tuple[SpaceId, ...], Field(max_length=MAX_COMPATIBLE)] = ()
    golden_crop: GoldenCrop
    artifacts: tuple[Artifact, ...]
    source: dict[str, str]
    budgets: dict[ExportPrecision, AccuracyBudget]
    cost: Cost
    versions: dict[str, str]
    consumers: tuple[ConsumerFolder, ...] = ()

    @property
    def space(self) -> VectorSpace | None:
        """The space of every file's vectors; None in manifests of earlier versions."""
        if self.vector_space is None:
            return None
        return VectorSpace(self.vector_space, self.compatible_with)

    def artifact(self, file: str) -> Artifact:
        """Return the artifact of this file name. Raises KeyError if there is none."""
        return {artifact.file: artifact for artifact in self.artifacts}[file]

    def with_artifacts(self, artifacts: Iterable[Artifact]) -> Manifest:
        """Return a copy with these artifacts in place of the present ones."""
        return self.model_copy(update={"artifacts": tuple(artifacts)})

    def with_consumer(self, entry: ConsumerFolder) -> Manifest:
        """Return a copy with the folder of a consumer, in place of an earlier one."""
        others = [consumer for consumer in self.consumers if consumer.name != entry.name]
        return self.model_copy(update={"consumers": (*others, entry)})

    def without(self, file: str) -> Manifest:
        """Return a copy without the artifact of this file name, if there is one."""
        return self.with_artifacts(a for a in self.artifacts if a.file != file)


def write_manifest(folder: Path, manifest: Manifest) -> Path:
    """Write `folder`/manifest.json atomically and return its path.

    Raises PivlError, and writes nothing, if a number is not finite.
    """
    path = folder / MANIFEST_FILE
    require_finite(manifest.model_dump(), path)
    write_text(path, manifest.model_dump_json(indent=2) + "\n")
    return path


def read_manifest(folder: Path) -> Manifest:
    """Read `folder`/manifest.json. Raises PivlError if it is missing, invalid or not finite."""
    path = folder / MANIFEST_FILE
    if not path.is_file():
        raise PivlError(f"'{folder}' has no {MANIFEST_FILE}; name a folder written by an export.")
    try:
        manifest = Manifest.model_validate_json(read_bytes(path, MAX_JSON_BYTES))
    except ValidationError as error:
        mistakes = list_mistakes((mistake["loc"], mistake["msg"]) for mistake in error.errors())
        raise PivlError(
            f"'{path}' is not a manifest of this version; export again.\n{mistakes}"
        ) from error
    if broken := next(find_nonfinite_numbers(manifest.model_dump()), None):
        raise PivlError(f"'{path}' is damaged ({broken}); export again.")
    return manifest


def installed_versions() -> dict[str, str]:
    """Return the installed versions of the packages that affect an export."""
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions

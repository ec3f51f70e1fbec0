"""The export as a whole: write, prove, measure, describe, and only then build engines.

The float32 file comes first and everything else is made from it. The manifest is written whatever
the gate finds; a file that fails leaves its reason there, and the export raises at its end.
Printing results is left to the command line.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from export.accuracy import DEFAULT_BUDGETS, AccuracyBudget, ExportPrecision, measure_reference
from export.calibration import measure_ranges
from export.cost import network_cost
from export.engines.builder import build_engine
from export.engines.engine_info import BatchProfile, EngineInfo, Gpu, remove_engine
from export.engines.library import EngineLibrary
from export.engines.runner import check_engine_loads
from export.fp16 import write_fp16
from export.golden_crop import GOLDEN_CROP_FILE, write_golden_crop
from export.int8 import INT8_FILES, write_int8_within_budget
from export.latency import measure_latency
from export.loading import embedding_model_from_spec
from export.manifest_schema import (
    Artifact,
    GoldenCrop,
    InputSpec,
    Manifest,
    OutputSpec,
    TestData,
    installed_versions,
    read_manifest,
    write_manifest,
)
from export.onnx_export import INPUT, OPSET, OUTPUT, write_onnx
from export.verification import Verifier
from pivl_distill.data.store import CropStore
from pivl_distill.errors import PivlError, UnverifiedError, VerificationError
from pivl_distill.models.embedding import EmbeddingModel
from pivl_distill.retrieval.evaluation import QueryGalleryCrops
from pivl_distill.runs.filenames import FP16_FILE, FP32_FILE, MANIFEST_FILE
from pivl_distill.runtime.onnx_session import open_session
from pivl_distill.storage.files import sha256

ENGINE_SOURCES: dict[ExportPrecision, str] = {
    "fp32": FP32_FILE,
    "fp16": FP16_FILE,
    "int8": INT8_FILES["tensorrt"],
}
"""The ONNX file that an engine of each precision is built from."""
LATENCY_BATCHES = (1, 32)
RANKING_CROPS = 64
"""Crops on which layers are compared when INT8 loses too much."""


@dataclass(frozen=True)
class ExportReport:
    """Where the files are, what was measured, and the gate for files that are still to come."""

    folder: Path
    manifest: Manifest
    verifier: Verifier

    @property
    def onnx_path(self) -> Path:
        """The float32 file."""
        return self.folder / FP32_FILE

    @property
    def manifest_path(self) -> Path:
        return self.folder / MANIFEST_FILE


@dataclass(frozen=True)
class EngineReport:
    """An engine in the export's folder: what it is, and what it was seen to do."""

    path: Path
    info: EngineInfo
    artifact: Artifact


class ExportError(VerificationError):
    """Some file did not pass; `report` says which, and what was measured of all."""

    def __init__(self, report: ExportReport) -> None:
        failed = [a for a in report.manifest.artifacts if a.status == "failed"]
        reasons = " ".join(f"{artifact.file}: {artifact.failure}" for artifact in failed)
        super().__init__(
            f"Not everything in {report.folder} does what the checkpoint does. {reasons} The "
            "files are kept for inspection; do not ship those that failed. To export again, remove "
            "the folder or name another with --out."
        )
        self.report = report


def export_model(
    model: EmbeddingModel,
    folder: Path,
    *,
    test: QueryGalleryCrops,
    calibration: CropStore | None = None,
    precisions: Collection[ExportPrecision] = (),
    normalize: bool = False,
    bake_preprocessing: bool = False,
    budgets: dict[ExportPrecision, AccuracyBudget] | None = None,
    source: Path | None = None,
    data: TestData | None = None,
    threads: int | None = None,
) -> ExportReport:
    """Export `model` into `folder`, in float32 and in `precisions`, each file proven on `test`.

    INT8 needs `calibration`, crops of the training split. `normalize` puts L2 normalisation into
    the graph, `bake_preprocessing` everything but resizing; `budgets` replace `DEFAULT_BUDGETS`;
    `source` is the checkpoint and `data` the data set of `test` that the manifest names. `threads`
    limits the CPU threads while latency is measured. Raises ExportError, with files and manifest
    kept, if a file is not the bare network, cannot be run or loses more than its budget.
    """
    if "int8" in precisions and calibration is None:
        raise ValueError("INT8 needs crops to calibrate on")
    options = {"normalize": normalize, "bake_preprocessing": bake_preprocessing}
    onnx_path = write_onnx(model, folder / FP32_FILE, **options)
    verifier = Verifier(
        spec=input_spec(model, bake_preprocessing),
        reference=measure_reference(model, test, normalize=normalize),
        bare=network_cost(model.network, model.size_hw, model.cameras),
        golden_crop=write_golden_crop(folder, model.size_hw),
        budgets=DEFAULT_BUDGETS | (budgets or {}),
    )
    manifest = Manifest(
        name=model.name,
        pooling=model.pooling,
        opset=OPSET,
        data=data,
        input=verifier.spec,
        output=OutputSpec(
            name=OUTPUT,
            dim=verifier.reference.features.query.shape[1],
            l2_normalised=normalize,
        ),
        golden_crop=GoldenCrop(file=GOLDEN_CROP_FILE, sha256=sha256(folder / GOLDEN_CROP_FILE)),
        artifacts=(),
        source={source.name: sha256(source)} if source else {},
        budgets=verifier.budgets,
        cost=verifier.bare,
        versions=installed_versions(),
    )
    artifacts: list[Artifact] = []
    for artifact in _gate_precisions(verifier, onnx_path, precisions, calibration):
        artifacts.append(artifact)
        # At once: should the next file be impossible to make, this one is not lost.
        write_manifest(folder, _with_artifacts(manifest, artifacts))
    manifest = _with_artifacts(manifest, _measure_latency(folder, artifacts, threads))
    write_manifest(folder, manifest)
    report = ExportReport(folder, manifest, verifier)
    if any(artifact.status == "failed" for artifact in artifacts):
        raise ExportError(report)
    return report


def add_engine(
    report: ExportReport,
    precision: ExportPrecision,
    library: EngineLibrary,
    profile: BatchProfile,
    *,
    workspace_bytes: int | None = None,
) -> EngineReport:
    """Build an engine of one precision beside an export's ONNX files and name it in the manifest.

    Where it can run on this machine it goes through the gate like any other file; else, without a
    GPU or with one that the library does not take, it is unverified. Raises PivlError, with the
    ONNX export complete and no engine left, if it cannot be built or read back here.
    """
    folder, source = report.folder, ENGINE_SOURCES[precision]
    gpu = Gpu.current()
    try:
        path, info = build_engine(
            folder / source, library, profile, workspace_bytes=workspace_bytes
        )
        runs_here = _runs_on_this_gpu(path, library, gpu)
    except PivlError as error:
        raise PivlError(f"{error} The ONNX files are kept in {folder}.") from error
    manifest = read_manifest(folder)
    float32_nodes = manifest.artifact(source).float32_nodes
    describe = report.verifier.verify if runs_here else Artifact.from_file
    artifact = describe(path, precision, "tensorrt", kind=library, float32_nodes=float32_nodes)
    batches = {"min_batch": profile.min_batch, "max_batch": profile.max_batch}
    artifact = artifact.model_copy(update=batches)
    write_manifest(
        folder, _with_artifacts(manifest, [*_artifacts_except(manifest, path), artifact])
    )
    return EngineReport(path, info, artifact)


def _runs_on_this_gpu(path: Path, library: EngineLibrary, gpu: Gpu | None) -> bool:
    """Whether the engine at `path`, just built, runs on `gpu`; it is read back as far as it can be.

    Raises PivlError, with the engine and what the manifest says of an older one removed, if it
    cannot be read.
    """
    if gpu is not None and not gpu.supports(library):
        return False
    try:
        return check_engine_loads(path) and gpu is not None
    except PivlError:
        remove_engine(path)
        manifest = read_manifest(path.parent)
        write_manifest(path.parent, _with_artifacts(manifest, _artifacts_except(manifest, path)))
        raise


def _artifacts_except(manifest: Manifest, path: Path) -> list[Artifact]:
    """All artifacts but that of the file at `path`."""
    return [artifact for artifact in manifest.artifacts if artifact.file != path.name]


def check_engines(engines: Collection[EngineReport]) -> None:
    """VerificationError if some engines did not pass the gate, else UnverifiedError if some did not
    get there."""
    failed = [e for e in engines if e.artifact.status == "failed"]
    if failed:
        reasons = " ".join(f"{e.path.name}: {e.artifact.failure}" for e in failed)
        raise VerificationError(
            f"Not every engine does what the checkpoint does. {reasons} The engines are kept for"
            " inspection; do not ship those that failed."
        )
    unverified = [e.path for e in engines if e.artifact.status == "unverified"]
    if unverified:
        raise UnverifiedError(
            f"Built, but unverified: {', '.join(path.name for path in unverified)}. This machine"
            " has no GPU that can run them. All files are kept; before you ship an engine, score it"
            f" on its device: pivl-distill evaluate {unverified[0]}."
        )


def input_spec(model: EmbeddingModel, bake_preprocessing: bool = False) -> InputSpec:
    """How the exported file of `model` is fed."""
    return InputSpec(
        name=INPUT,
        size_hw=model.size_hw,
        mean=model.mean,
        std=model.std,
        layout="NHWC" if bake_preprocessing else "NCHW",
        dtype="uint8" if bake_preprocessing else "float32",
        preprocessing_in_graph=bake_preprocessing,
        cameras=model.cameras,
    )


def _gate_precisions(
    verifier: Verifier,
    onnx_path: Path,
    precisions: Collection[ExportPrecision],
    calibration: CropStore | None,
) -> Iterator[Artifact]:
    """The file in float32 and, if that is verified, in the other precisions."""
    artifact = verifier.verify(onnx_path, "fp32", "any")
    yield artifact
    if artifact.status == "failed":
        return
    if "fp16" in precisions:
        yield verifier.verify(write_fp16(onnx_path, onnx_path.with_name(FP16_FILE)), "fp16", "any")
    if "int8" in precisions and calibration is not None:
        yield from _int8(verifier, onnx_path, calibration)


def _int8(verifier: Verifier, onnx_path: Path, crops: CropStore) -> Iterator[Artifact]:
    """Both forms of INT8, each with as many nodes left in float32 as its budget asks for."""
    ranges = measure_ranges(onnx_path, verifier.spec, crops)
    inputs = [
        embedding_model_from_spec(onnx_path.name, verifier.spec).preprocess(
            crops.crops[:RANKING_CROPS]
        )
    ]
    if verifier.spec.cameras and crops.camids is not None:
        inputs.append(torch.from_numpy(crops.camids[:RANKING_CROPS]))
    for form in INT8_FILES:
        yield write_int8_within_budget(
            onnx_path,
            form,
            ranges,
            inputs,
            partial(verifier.verify, precision="int8", runs_on=form),
        )


def _with_artifacts(manifest: Manifest, artifacts: Iterable[Artifact]) -> Manifest:
    return manifest.model_copy(update={"artifacts": tuple(artifacts)})


def _measure_latency(
    folder: Path, artifacts: Sequence[Artifact], threads: int | None
) -> list[Artifact]:
    """The artifacts with the latency of those that passed and are made to run here."""
    chosen = [a for a in artifacts if a.status == "verified" and a.runs_on != "tensorrt"]
    sessions = [open_session(folder / artifact.file, threads=threads) for artifact in chosen]
    batches = [measure_latency(sessions, batch) for batch in LATENCY_BATCHES]
    timed = {a.file: latency for a, *latency in zip(chosen, *batches, strict=True)}
    return [a.model_copy(update={"latency": tuple(timed.get(a.file, ()))}) for a in artifacts]

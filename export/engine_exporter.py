"""Build engines from an export's ONNX files, verify them and add them to its manifest."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from export.accuracy import ExportPrecision
from export.engines.builder import build_engine
from export.engines.engine_info import BatchProfile, EngineInfo, Gpu, remove_engine
from export.engines.library import EngineLibrary
from export.engines.runner import check_engine_loads
from export.exporter import ExportReport
from export.int8 import INT8_FILES
from export.manifest_schema import Artifact, read_manifest, write_manifest
from pivl_distill.errors import PivlError, UnverifiedError, VerificationError
from pivl_distill.storage.filenames import FP16_FILE, FP32_FILE

ENGINE_SOURCES: dict[ExportPrecision, str] = {
    "fp32": FP32_FILE,
    "fp16": FP16_FILE,
    "int8": INT8_FILES["tensorrt"],
}
"""The ONNX file that the engine of each precision is built from."""


@dataclass(frozen=True)
class EngineReport:
    """An engine in the export folder, with its sidecar and its entry in the manifest."""

    path: Path
    info: EngineInfo
    artifact: Artifact


def add_engine(
    report: ExportReport,
    precision: ExportPrecision,
    library: EngineLibrary,
    profile: BatchProfile,
    *,
    workspace_bytes: int | None = None,
) -> EngineReport:
    """Build the engine of one precision next to its ONNX file and add it to the manifest.

    An engine that runs on this machine is verified like any other file. Without a GPU, or with a
    GPU that the library does not support, it is recorded as unverified.

    Args:
        report: the finished export.
        precision: one that the export contains.
        library: TensorRT or TensorRT-RTX.
        profile: the batch sizes that the engine accepts.
        workspace_bytes: limit on GPU memory per layer; None for no limit.

    Raises:
        PivlError: the engine cannot be built, or does not load afterwards; then it is removed. The
            ONNX export is unaffected.
    """
    folder, source = report.folder, ENGINE_SOURCES[precision]
    gpu = Gpu.current()
    try:
        path, info = build_engine(
            folder / source, library, profile, workspace_bytes=workspace_bytes
        )
        runs_here = _runs_here(path, library, gpu)
    except PivlError as error:
        raise PivlError(f"{error} The ONNX files are kept in {folder}.") from error
    manifest = read_manifest(folder)
    float32_nodes = manifest.artifact(source).float32_nodes
    describe = report.verifier.verify if runs_here else Artifact.from_file
    artifact = describe(path, precision, "tensorrt", kind=library, float32_nodes=float32_nodes)
    batches = {"min_batch": profile.min_batch, "max_batch": profile.max_batch}
    artifact = artifact.model_copy(update=batches)
    others = manifest.without(path.name).artifacts
    write_manifest(folder, manifest.with_artifacts([*others, artifact]))
    return EngineReport(path, info, artifact)


def check_engines(engines: Collection[EngineReport]) -> None:
    """Raise VerificationError if an engine failed, else UnverifiedError if one is unverified."""
    failed = [e for e in engines if e.artifact.status == "failed"]
    if failed:
        reasons = " ".join(f"{e.path.name}: {e.artifact.failure}" for e in failed)
        raise VerificationError(
            f"Verification of engines failed. {reasons} The engines are kept for inspection; do not"
            " deploy the failed ones."
        )
    unverified = [e.path for e in engines if e.artifact.status == "unverified"]
    if unverified:
        raise UnverifiedError(
            f"Built, but unverified: {', '.join(path.name for path in unverified)}. This machine"
            " has no GPU that can run them. All files are kept; before you deploy an engine, score"
            f" it on its device: pivl-distill evaluate {unverified[0]}."
        )


def _runs_here(path: Path, library: EngineLibrary, gpu: Gpu | None) -> bool:
    """Whether the new engine at `path` runs on `gpu`; loads it as far as this machine can.

    If it does not load, removes the engine and its manifest entry, and raises PivlError.
    """
    if gpu is not None and not gpu.supports(library):
        return False
    try:
        return check_engine_loads(path) and gpu is not None
    except PivlError:
        remove_engine(path)
        write_manifest(path.parent, read_manifest(path.parent).without(path.name))
        raise

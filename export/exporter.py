"""The export as a whole: write, prove, measure, describe, and only then build an engine.

The manifest is written whatever happens after the graph exists; a failed check leaves its reason
in it and raises. Printing is left to the command line.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.cost import check_no_teaching
from export.engines.builder import build_engine
from export.engines.description import EngineInfo, Profile
from export.engines.library import Library
from export.engines.runner import read_back
from export.graph import INPUT, OUTPUT, write_onnx
from export.latency import measure_latency
from export.manifest import (
    InputSpec,
    Manifest,
    OutputSpec,
    installed_versions,
    read_manifest,
    sha256,
    write_manifest,
)
from export.session import open_session
from export.verify import Budget, check_budget, compare_retrieval, verify
from pivl_distill.data.store import CropStore
from pivl_distill.embedding import EmbeddingModel
from pivl_distill.errors import PivlError, VerificationError

PARITY_CROPS = 256
LATENCY_BATCHES = (1, 32)


@dataclass(frozen=True)
class ExportReport:
    """Where the files are and what was measured."""

    onnx_path: Path
    manifest_path: Path
    manifest: Manifest


@dataclass(frozen=True)
class EngineReport:
    """Where an engine is, what it is, and whether this machine could load it wholly."""

    path: Path
    info: EngineInfo
    loads: bool


def export_model(
    model: EmbeddingModel,
    out_dir: Path,
    *,
    query: CropStore,
    gallery: CropStore,
    normalize: bool = False,
    budget: Budget | None = None,
    source: Path | None = None,
    threads: int | None = None,
) -> ExportReport:
    """Export `model` into `out_dir` and prove it on `query` and `gallery`.

    `normalize` puts L2 normalisation into the graph, `source` is the checkpoint the manifest
    names. `threads` limits the CPU threads while latency is measured. Raises VerificationError,
    with the files and a manifest kept, if the graph is not the bare network or loses more than
    `budget`.
    """
    budget = budget or Budget()
    onnx_path = write_onnx(model, out_dir / "model.onnx", normalize=normalize)
    manifest = _describe(model, onnx_path, normalize, budget, source)
    try:
        cost = check_no_teaching(onnx_path, model.network, model.size_hw, model.cameras)
        manifest = _with(manifest, cost=cost)
        crops = query.crops[:PARITY_CROPS]
        camids = None if query.camids is None else query.camids[:PARITY_CROPS]
        parity = verify(model, onnx_path, crops, camids, normalize=normalize)
        manifest = _with(manifest, parity=parity)
        retrieval = compare_retrieval(model, onnx_path, query, gallery)
        manifest = _with(manifest, retrieval=retrieval)
        check_budget(onnx_path, parity, retrieval, budget)
    except VerificationError as error:
        write_manifest(out_dir, _with(manifest, failure=str(error)))
        raise
    timed = open_session(onnx_path, threads=threads)
    latency = tuple(measure_latency(timed, model.size_hw, batch) for batch in LATENCY_BATCHES)
    manifest = _with(manifest, latency=latency)
    manifest_path = write_manifest(out_dir, manifest)
    return ExportReport(onnx_path, manifest_path, manifest)


def add_engine(
    report: ExportReport,
    library: Library,
    profile: Profile,
    *,
    workspace_bytes: int | None = None,
) -> EngineReport:
    """Build an engine beside an export's ONNX file, read it back, and name it in the manifest.

    Raises PivlError, with the ONNX export complete, if no engine can be built here.
    """
    onnx_path = report.onnx_path
    try:
        path, info = build_engine(onnx_path, library, profile, workspace_bytes=workspace_bytes)
        loads = read_back(path)
    except PivlError as error:
        raise PivlError(f"{error} The ONNX file is kept: {onnx_path}.") from error
    manifest = read_manifest(path.parent)
    artifacts = manifest.artifacts | {path.name: info.engine_sha256}
    write_manifest(path.parent, _with(manifest, artifacts=artifacts))
    return EngineReport(path, info, loads)


def _describe(
    model: EmbeddingModel, onnx_path: Path, normalize: bool, budget: Budget, source: Path | None
) -> Manifest:
    output = open_session(onnx_path).get_outputs()[0]
    return Manifest(
        name=model.name,
        input=InputSpec(
            name=INPUT,
            size_hw=model.size_hw,
            mean=model.mean,
            std=model.std,
            cameras=model.cameras,
        ),
        output=OutputSpec(name=OUTPUT, dim=output.shape[1], l2_normalised=normalize),
        artifacts={onnx_path.name: sha256(onnx_path)},
        source={source.name: sha256(source)} if source else {},
        budget=budget,
        versions=installed_versions(),
    )


def _with(manifest: Manifest, **fields: Any) -> Manifest:
    return manifest.model_copy(update=fields)

"""What `pivl-distill export` prints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pivl_distill.app.report import NO_CAMERA_RULE, NOT_MEASURED, percent
from pivl_distill.console import summary, table

if TYPE_CHECKING:
    from export.accuracy import RetrievalComparison
    from export.consumer_schema import ConsumerFolder, ConsumerRun
    from export.engine_exporter import EngineReport
    from export.exporter import ExportReport
    from export.manifest_schema import Artifact

_EXPORT_COLUMNS = (
    "file", "precision", "status", "cosine min", "mean", "mAP before", "after", "Rank-1 before",
    "after", "size", "batch 1", "batch 32",
)  # fmt: skip


def print_export(report: ExportReport) -> None:
    """Print the measurements of every exported file; latency is that of ONNX Runtime on the CPU."""
    manifest = report.manifest
    missing = "–" if manifest.not_measured is None else NOT_MEASURED
    rows = [_artifact_row(artifact, missing) for artifact in manifest.artifacts]
    table(f"Exported to {report.folder}", _EXPORT_COLUMNS, rows)
    details: dict[str, object] = {
        "parameters": f"{manifest.cost.parameters:,}",
        "multiply-adds": f"{manifest.cost.macs:,}",
    }
    for artifact in manifest.artifacts:
        if artifact.float32_nodes:
            details[f"float32 in {artifact.file}"] = ", ".join(artifact.float32_nodes)
        if artifact.robustness is not None:
            clean, mean = artifact.robustness.clean.mAP, artifact.robustness.mean().mAP
            details[f"mAP under corruptions, {artifact.file}"] = (
                f"{percent(mean)}, {percent(clean)} without"
            )
    if manifest.not_measured is not None:
        details["mAP, Rank-1"] = manifest.not_measured
    reference = manifest.artifacts[0].retrieval
    if reference is not None and not reference.camera_rule:
        details["cameras"] = NO_CAMERA_RULE
    details["manifest"] = report.manifest_path
    statuses = {artifact.status for artifact in manifest.artifacts}
    summary("Not verified" if "failed" in statuses else "Verified", details)


def _artifact_row(artifact: Artifact, missing_score: str) -> list[str]:
    """One row of the table; a dash marks a value, `missing_score` a score, that is not known."""
    parity, retrieval = artifact.parity, artifact.retrieval
    cells = [artifact.file, artifact.precision, artifact.status]
    cells += [f"{parity.min_cosine:.6f}", f"{parity.mean_cosine:.6f}"] if parity else ["–"] * 2
    cells += _score_cells(retrieval, missing_score)
    cells.append(f"{artifact.bytes / 1e6:.2f} MB")
    latency = [f"{timed.median_ms:.2f} ms" for timed in artifact.latency]
    return cells + (latency or ["–"] * 2)


def print_engine(report: EngineReport) -> None:
    """Print how an engine was built, and its verification if it runs here."""
    info, artifact = report.info, report.artifact
    where = f"on {info.gpu.name}" if info.gpu else "without a GPU"
    rows: dict[str, object] = {
        "library": f"{info.library} {info.library_version}",
        "precision": info.precision,
        "batches": "min {}, opt {}, max {}".format(*info.profile.batches),
        "built": f"in {info.build_seconds:.1f} s {where}",
        "file": f"{info.engine_bytes / 1e6:.2f} MB",
        "status": artifact.status,
    }
    if artifact.parity is not None:
        rows["cosine, least and mean"] = (
            f"{artifact.parity.min_cosine:.6f}, {artifact.parity.mean_cosine:.6f}"
        )
    if artifact.retrieval is not None:
        before, after = artifact.retrieval.checkpoint_mAP, artifact.retrieval.exported_mAP
        rows["mAP, before and after"] = f"{100 * before:.2f} %, {100 * after:.2f} %"
    elif artifact.parity is not None:
        rows["mAP, before and after"] = NOT_MEASURED
    summary(f"Engine {report.path}", rows)


_CONSUMER_COLUMNS = (
    "consumer", "file", "status", "run by", "cosine min", "as used: mean", "mAP before", "after",
    "Rank-1 before", "after",
)  # fmt: skip

_LATENCY_COLUMNS = ("consumer", "file", "batch", "median", "ONNX Runtime")


def print_consumers(folder: Path, entries: Sequence[ConsumerFolder]) -> None:
    """Print the networks of consumers' folders in the export `folder`, and what is not verified.

    The first cosine is that of crops of the input size; what follows is measured through the
    consumer's own crop and resize.
    """
    rows = [_consumer_row(entry, run) for entry in entries for run in entry.runs]
    table(f"For other programs, in {folder}", _CONSUMER_COLUMNS, rows)
    timed = [row for entry in entries for run in entry.runs for row in _latency_rows(entry, run)]
    if timed:
        table("Latency, timed in turns with ONNX Runtime", _LATENCY_COLUMNS, timed)
    reasons = {entry.name: entry.reason for entry in entries if entry.reason is not None}
    if reasons:
        summary("Not verified", reasons)


def _latency_rows(entry: ConsumerFolder, run: ConsumerRun) -> list[list[str]]:
    """One row per batch size of a network that was timed."""
    return [
        [entry.name, run.file, str(own.batch), f"{own.median_ms:.2f} ms", f"{ort.median_ms:.2f} ms"]
        for own, ort in zip(run.latency, run.onnxruntime_latency, strict=True)
    ]


def _consumer_row(entry: ConsumerFolder, run: ConsumerRun) -> list[str]:
    cells = [entry.name, run.file, run.status, run.by or "not run"]
    cells.append(f"{run.exact.min_cosine:.6f}" if run.exact else "–")
    cells.append(f"{run.as_used.mean_cosine:.4f}" if run.as_used else "–")
    return cells + _score_cells(run.retrieval, "–")


def _score_cells(retrieval: RetrievalComparison | None, missing: str) -> list[str]:
    """mAP before and after, and Rank-1 before and after; `missing` if they are not known."""
    if retrieval is None:
        return [missing, "–"] * 2
    shares = (
        retrieval.checkpoint_mAP,
        retrieval.exported_mAP,
        retrieval.checkpoint_rank1,
        retrieval.exported_rank1,
    )
    return [f"{100 * share:.2f} %" for share in shares]

"""What `pivl-distill export` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pivl_distill.app.report import NO_CAMERA_RULE, NOT_MEASURED, percent
from pivl_distill.console import summary, table

if TYPE_CHECKING:
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
    if retrieval is None:
        cells += [missing_score, "–"] * 2
    else:
        shares = (
            retrieval.checkpoint_mAP,
            retrieval.exported_mAP,
            retrieval.checkpoint_rank1,
            retrieval.exported_rank1,
        )
        cells += [f"{100 * share:.2f} %" for share in shares]
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

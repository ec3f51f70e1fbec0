"""Scores and pictures from Python: `evaluate` and `write_report`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pivl_distill.api.arguments import (
    Device,
    Values,
    as_cameras,
    as_path,
    as_preprocessing,
    explain_errors,
    latest_student,
)
from pivl_distill.config import Preprocessing

if TYPE_CHECKING:
    from pivl_distill.app.targets import Evaluation
    from pivl_distill.report.pictures import Heads
    from pivl_distill.report.write import WrittenReport


@explain_errors
def evaluate(
    target: str | Path | None = None,
    *,
    data: str | None = None,
    camera: int | str | None = None,
    sie_coefficient: float = 1.0,
    preprocessing: str | Path | Values | Preprocessing | None = None,
    device: Device = "auto",
    cache: bool = True,
) -> Evaluation:
    """Score a network on query and gallery: `pivl-distill evaluate`.

    The report has a `result` (mAP, CMC, mINP), and computes more: `rerank()`, `robustness()`.

    Args:
        target: run folder, checkpoint, ONNX file, engine or a network of others (ONNX file or
            OpenVINO IR); default: the latest student run.
        data: data set; default: that of the run.
        camera: how camera embeddings (SIE) are used: "input", "mean" or a camera id from 0.
        sie_coefficient: coefficient of the camera embeddings in training.
        preprocessing: of a network of others: a preset, a YAML file or settings.
        device: where to compute; "auto": a GPU if there is one, the CPU for ONNX files.
        cache: whether to read and write the cache of decoded crops.
    """
    from pivl_distill.app.targets import evaluate_target

    path = as_path(target) or latest_student()
    cameras = as_cameras(camera, sie_coefficient)
    declared = as_preprocessing(preprocessing)
    return evaluate_target(path, data, cameras, declared, cached=cache, device=device)


@explain_errors
def write_report(
    *runs: str | Path,
    out: str | Path = "report.html",
    data: str | None = None,
    crops: bool = True,
    heads: Heads = "auto",
    device: Device = "auto",
    cache: bool = True,
) -> WrittenReport:
    """Write one HTML page about runs: `pivl-distill report`. Needs the extra `[report]`.

    Args:
        runs: folders of teach, student and export runs; default: the latest of each.
        out: the page; an existing one is replaced.
        data: data set to score on; default: that of the last run.
        crops: whether the page has photographs.
        heads: "pixelated", "shown", or "auto": pixelated unless people are synthetic.
        device: where checkpoints run; "auto": a GPU if there is one, the CPU for ONNX files.
        cache: whether to read and write the cache of decoded crops.
    """
    from pivl_distill.report.context import ReportSettings
    from pivl_distill.report.write import write_report as write

    settings = ReportSettings(data, crops, heads, device, cache)
    return write([Path(run) for run in runs], Path(out), settings)

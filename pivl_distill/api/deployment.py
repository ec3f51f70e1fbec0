"""Export from Python: `export` and `export_for`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

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
    from export.consumer_schema import ConsumerFolder
    from export.exporter import ExportReport


@explain_errors
def export(
    source: str | Path | None = None,
    *,
    data: str | None = None,
    precision: str | Sequence[str] = (),
    budget: Mapping[str, float] | None = None,
    normalize: bool = False,
    bake_preprocessing: bool = False,
    camera: int | str | None = None,
    sie_coefficient: float = 1.0,
    corrupted: Literal["query", "gallery", "both"] | None = None,
    preprocessing: str | Path | Values | Preprocessing | None = None,
    device: Device = "cpu",
    out: str | Path | None = None,
    cache: bool = True,
) -> ExportReport:
    """Write a network as verified ONNX files: `pivl-distill export`. The command builds engines.

    Args:
        source: run folder, checkpoint or ONNX file of others; default: the latest student run.
        data: data set to calibrate and verify on; default: that of the run.
        precision: "fp16", "int8" or both, in addition to fp32.
        budget: allowed losses, such as {"int8.mAP": 2}, in points of mAP.
        normalize: whether to put L2 normalisation into the graph.
        bake_preprocessing: whether the graph takes uint8 RGB crops [N, H, W, 3].
        camera: how camera embeddings (SIE) are used: "input", "mean" or a camera id from 0.
        sie_coefficient: coefficient of the camera embeddings in training.
        corrupted: what is corrupted to measure the robustness of each file; None: not measured.
        preprocessing: of an ONNX file of others: a preset, a YAML file or settings.
        device: where the checkpoint runs, as the reference; ONNX files run on the CPU.
        out: run folder; default: the next in `runs/`.
        cache: whether to read and write the cache of decoded crops.

    Raises: ExportError, with the report as `report`, if a file fails its verification.
    """
    from export.accuracy import parse_budgets, parse_precision
    from pivl_distill.app.export_run import ExportOptions, export_checkpoint

    names = precision.split(",") if isinstance(precision, str) else precision
    precisions = [parse_precision(name) for name in names]
    budgets = parse_budgets(f"{key}={value}" for key, value in (budget or {}).items())
    options = ExportOptions(precisions, budgets, normalize, bake_preprocessing, corrupted)
    checkpoint = as_path(source) or latest_student()
    cameras = as_cameras(camera, sie_coefficient)
    declared = as_preprocessing(preprocessing)
    run = partial(export_checkpoint, checkpoint, data, as_path(out), cameras, options)
    return run(preprocessing=declared, cached=cache, device=device)


@explain_errors
def export_for(
    folder: str | Path,
    consumers: str | Sequence[str],
    *,
    pythons: Mapping[str, str | Path] | None = None,
    data: str | None = None,
    cache: bool = True,
) -> list[ConsumerFolder]:
    """Add folders for other programs to an export, measured in them: `pivl-distill export --for`.

    Each entry has the `folder`, its `status` ("verified", "failed" or "unverified") and a `reason`.

    Args:
        folder: of the export.
        consumers: their names, such as "openvino,web".
        pythons: the Python of each consumer that has an environment of its own.
        data: data set of the export, if it was moved.
        cache: whether to read and write the cache of decoded crops.
    """
    from pivl_distill.app.export_consumers import ConsumerTargets

    names = (consumers,) if isinstance(consumers, str) else tuple(consumers)
    commands = tuple(f"{name}={path}" for name, path in (pythons or {}).items())
    return list(ConsumerTargets(names, commands).add(Path(folder), data, cached=cache))

"""The command that exports: ONNX files, engines, and folders for other programs."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from pivl_distill.cli.options import (
    RUN_OR_FILE,
    camera_options,
    consumer_options,
    corruption_options,
    data_option,
    device_option,
    engine_options,
    no_cache_option,
    out_option,
    preprocessing_options,
)
from pivl_distill.errors import PivlError, raise_worst

if TYPE_CHECKING:
    from export.engine_exporter import EngineReport
    from pivl_distill.app.export_consumers import ConsumerTargets
    from pivl_distill.app.export_run import Engines
    from pivl_distill.app.networks import Cameras
    from pivl_distill.config import DeviceChoice, Preprocessing
    from pivl_distill.retrieval.robustness import CorruptedSplit


@click.command(
    short_help="Write verified ONNX files (and TensorRT engines).",
    epilog="""\b
Examples:
  pivl-distill export
  pivl-distill export runs/student-2 --normalize --bake-preprocessing
  pivl-distill export --precision fp16,int8 --budget int8.mAP=2
  pivl-distill export runs/teach-1 --precision fp16 --trt --batch 1,4,16 -o deploy/
  pivl-distill export Market_ViT-B-16_60.pth --camera mean -o deploy/
  pivl-distill export osnet_x0_25.onnx --preset osnet --data market1501:/data/market
  pivl-distill export deploy/ --for boxmot --consumer-python boxmot=/opt/boxmot/bin/python
""",
)
@click.argument("source", required=False, type=RUN_OR_FILE)
@click.option("--precision", multiple=True, metavar="fp32|fp16|int8", help="One, several or a,b.")
@engine_options
@click.option("--budget", multiple=True, metavar="KEY=VALUE", help="Allowed loss: int8.mAP=2, …")
@click.option("--normalize", is_flag=True, help="Put L2 normalisation into the graph.")
@click.option("--bake-preprocessing", is_flag=True, help="Take uint8 RGB crops [N, H, W, 3].")
@corruption_options
@consumer_options
@data_option
@no_cache_option
@camera_options
@preprocessing_options
@device_option("cpu", "Where the checkpoint runs, as the reference.")
@out_option
def export(
    source: Path | None,
    precision: tuple[str, ...],
    engines: Engines,
    budget: tuple[str, ...],
    corrupted: CorruptedSplit | None,
    targets: ConsumerTargets,
    spec: str | None,
    no_cache: bool,
    cameras: Cameras,
    preprocessing: Preprocessing | None,
    device: DeviceChoice,
    out: Path | None,
    **graph: bool,
) -> None:
    """Write a student or teacher as ONNX, without its training heads, and verify every file.

    SOURCE is a run folder or a checkpoint, also one published by CLIP-ReID; default: the latest
    student run; or an ONNX file of others, whose input is declared as for `evaluate`. It is
    calibrated and verified on --data. The fp32 file is always written, as the reference; engines
    are built in every precision. Budgets are PRECISION.cosine, PRECISION.mAP and PRECISION.rank1.
    --for adds folders for other programs, also to an export named as SOURCE.
    Exit code 3: a file does not match the checkpoint; 4: an engine or a folder was made that
    cannot be run here.
    """
    from export.accuracy import parse_budgets, parse_precision
    from export.exporter import ExportError
    from pivl_distill.app.export_consumers import is_export
    from pivl_distill.app.export_report import print_export
    from pivl_distill.app.export_run import ExportOptions, export_checkpoint
    from pivl_distill.runs.run import Run

    source = source or Run.latest("student").path
    if is_export(source):
        _check_only_consumers(source, targets)
        _finish(source, targets, spec, no_cache)
        return
    precisions = [parse_precision(name) for names in precision for name in names.split(",")]
    options = ExportOptions(precisions, parse_budgets(budget), corrupted=corrupted, **graph)
    engines.profile()  # raise before the work, not after it
    targets.check_options(**graph)
    export_source = partial(export_checkpoint, preprocessing=preprocessing, cached=not no_cache)
    try:
        report = export_source(source, spec, out, cameras, options, device=device)
    except ExportError as error:
        print_export(error.report)
        raise
    print_export(report)
    _finish(report.folder, targets, spec, no_cache, engines.build(report))


def _check_only_consumers(source: Path, targets: ConsumerTargets) -> None:
    """Raise PivlError unless --for is given for an existing export, and no option of a new one."""
    ctx = click.get_current_context()
    given = {
        option
        for option in ctx.command.params
        if ctx.get_parameter_source(str(option.name)) is ParameterSource.COMMANDLINE
    }
    others = [
        option.opts[0]
        for option in given
        if option.name not in ("source", "names", "pythons", "spec", "no_cache")
    ]
    if others:
        raise PivlError(
            f"{source} is an export already; {', '.join(sorted(others))} would change it. Export"
            " its checkpoint again, into another folder."
        )
    if not targets.names:
        raise PivlError(
            f"{source} is an export already; add folders for other programs with --for, or name a"
            " checkpoint."
        )


def _finish(
    folder: Path,
    targets: ConsumerTargets,
    spec: str | None,
    no_cache: bool,
    engines: Iterable[EngineReport] = (),
) -> None:
    """Build engines and folders for consumers, print each, and raise the worst that was found."""
    from export.consumers.folders import check_folders
    from export.engine_exporter import check_engines
    from pivl_distill.app.export_report import print_consumers, print_engine

    built, entries = [], []
    for engine in engines:
        print_engine(engine)
        built.append(engine)
    if targets.names:
        entries = list(targets.add(folder, spec, cached=not no_cache))
        print_consumers(folder, entries)
    raise_worst(partial(check_engines, built), partial(check_folders, entries))

"""What comes after training: scores, exported files, vectors, latencies; and the whole job."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pivl_distill.cli.options import (
    COUNT,
    DEVICE,
    FILE,
    FOLDER,
    PICTURE,
    camera_options,
    engine_options,
    no_cache_option,
)
from pivl_distill.distributed import process_group

if TYPE_CHECKING:
    from pivl_distill.app.targets import Cameras, Engines
    from pivl_distill.runtime.onnx_session import ExecutionDevice


def latest_export() -> Path:
    """The folder of the latest export run; PivlError when there is none."""
    from pivl_distill.runs.run import Run

    return Run.latest("export").path


@click.command(
    epilog="""\b
Examples:
  pivl-distill export
  pivl-distill export runs/student-2 --normalize --bake-preprocessing
  pivl-distill export --precision fp16,int8 --budget int8.mAP=2
  pivl-distill export runs/teach-1 --precision fp16 --trt --batch 1,4,16 -o deploy/
  pivl-distill export Market_ViT-B-16_60.pth --camera mean -o deploy/
"""
)
@click.argument("source", required=False, type=click.Path(path_type=Path))
@click.option("--onnx", is_flag=True, expose_value=False, help="ONNX files; always written.")
@engine_options
@click.option("--precision", multiple=True, metavar="fp32|fp16|int8", help="One, several or a,b.")
@click.option("--budget", multiple=True, metavar="KEY=VALUE", help="May be lost: int8.mAP=2, …")
@click.option("--normalize", is_flag=True, help="Put L2 normalisation into the graph.")
@click.option("--bake-preprocessing", is_flag=True, help="Take uint8 RGB crops [N, H, W, 3].")
@click.option("--data", "spec", metavar="KIND:PATH", help="Calibrate and verify on this instead.")
@no_cache_option
@camera_options
@click.option("--out", "-o", type=FOLDER, help="Folder; default: the next in runs/.")
def export(
    source: Path | None,
    engines: Engines,
    precision: tuple[str, ...],
    budget: tuple[str, ...],
    spec: str | None,
    no_cache: bool,
    cameras: Cameras,
    out: Path | None,
    **options: bool,
) -> None:
    """Write a student or teacher as ONNX, without any of its teaching, and verify every file.

    SOURCE is a run folder or a checkpoint, also one that CLIP-ReID published; default: the latest
    student run. float32 is always written, as the reference; engines are built of every precision.
    Budgets are PRECISION.cosine, PRECISION.mAP and PRECISION.rank1. Exit code 3 if a file does not
    do what the checkpoint does, 4 if an engine was built but cannot be run here.
    """
    from export.accuracy import parse_budgets, parse_precision
    from export.exporter import ExportError, check_engines
    from pivl_distill.app.report import print_engine, print_export
    from pivl_distill.app.targets import export_checkpoint
    from pivl_distill.runs.run import Run

    precisions = [parse_precision(name) for names in precision for name in names.split(",")]
    budgets = parse_budgets(budget)
    engines.profile()  # refused before the work, not after it
    path = source or Run.latest("student").path
    try:
        report = export_checkpoint(
            path,
            spec,
            out,
            cameras,
            precisions=precisions,
            cached=not no_cache,
            budgets=budgets,
            **options,
        )
    except ExportError as error:
        print_export(error.report)
        raise
    print_export(report)
    built = []
    for engine in engines.build(report):
        print_engine(engine)
        built.append(engine)
    check_engines(built)


@click.command(
    epilog="""\b
Examples:
  pivl-distill evaluate
  pivl-distill evaluate runs/export-1/model.onnx --sheet found.png
  pivl-distill evaluate runs/teach-1 --data market1501:/data/market --rerank
  pivl-distill evaluate Market_ViT-B-16_60.pth --data market1501:/data/market
"""
)
@click.argument("target", required=False, type=click.Path(path_type=Path))
@click.option("--data", "spec", metavar="KIND:PATH", help="Data set; default: the run's own.")
@no_cache_option
@camera_options
@click.option("--rerank", is_flag=True, help="Also score after k-reciprocal re-ranking.")
@click.option("--sheet", type=PICTURE, help="Also draw what was found for some queries, as PNG.")
def evaluate(
    target: Path | None,
    spec: str | None,
    no_cache: bool,
    cameras: Cameras,
    rerank: bool,
    sheet: Path | None,
) -> None:
    """Score a run, a checkpoint, an exported ONNX file or an engine by the Market-1501 protocol.

    TARGET is a run folder or a file, also a checkpoint that CLIP-ReID published; default: the
    latest student run.
    """
    from pivl_distill.app.ranking_sheet import ranking_sheet
    from pivl_distill.app.report import print_reranked, print_retrieval
    from pivl_distill.app.targets import evaluate_target
    from pivl_distill.retrieval.evaluation import evaluate_reranked
    from pivl_distill.runs.run import Run

    target = target or Run.latest("student").path
    evaluation = evaluate_target(target, spec, cameras, cached=not no_cache)
    print_retrieval(evaluation)
    if rerank:
        print_reranked(evaluate_reranked(evaluation.features, evaluation.test))
    if sheet is not None and not process_group.rank():
        ranking_sheet(evaluation.features, evaluation.test, sheet)


@click.command(
    epilog="""\b
Examples:
  pivl-distill embed crops/ -o features.npz
  pivl-distill embed crops/ --export deploy/ --precision fp32 -o features.parquet
"""
)
@click.argument("folder", type=FOLDER)
@click.option("--export", "export_dir", type=FOLDER, help="An export; default: the latest.")
@click.option("--precision", default="auto", show_default=True, help="auto, fp32, fp16 or int8.")
@click.option("--device", type=DEVICE, help="Default: a GPU where there is one.")
@click.option("--camera", type=int, help="Camera of all images, for networks that take one.")
@click.option("--out", "-o", type=FILE, required=True, help="File: .npz or .parquet.")
@click.pass_context
def embed(
    ctx: click.Context,
    folder: Path,
    export_dir: Path | None,
    precision: str,
    device: ExecutionDevice | None,
    camera: int | None,
    out: Path,
) -> None:
    """Write the vectors of all images in a folder; exit code 3 if some cannot be read.

    Runs without torch. Vectors are of length one: compare them by their dot product. Several
    processes (torchrun) write a Parquet file each.
    """
    from pivl_distill.app.embed_folder import embed_folder, print_embedded
    from pivl_distill.errors import VerificationError
    from pivl_distill.runtime import Extractor
    from pivl_distill.storage.files import check_writable

    check_writable(out)
    extractor = Extractor(
        export_dir or latest_export(), precision=precision, device=device or "auto"
    )
    report = embed_folder(folder, extractor, out, camera)
    print_embedded(report)
    if report.unreadable:
        ctx.exit(VerificationError.exit_code)


@click.command(
    epilog="""\b
Examples:
  pivl-distill bench
  pivl-distill bench deploy/ --threads 1 --threads 4 --batch 1 --batch 8 --batch 32
  pivl-distill bench --json bench.json --picture bench.png
"""
)
@click.argument("export_dir", metavar="[EXPORT]", required=False, type=FOLDER)
@click.option("--batch", "batches", multiple=True, type=COUNT, default=(1, 32), show_default=True)
@click.option("--threads", multiple=True, type=COUNT, help="CPU threads; default: all cores.")
@click.option("--device", "devices", multiple=True, type=DEVICE, help="Default: what is there.")
@click.option("--seconds", default=20.0, show_default=True, help="For each batch and threads.")
@click.option("--json", "json_file", type=FILE, help="Also write all figures as JSON.")
@click.option("--picture", type=PICTURE, help="Also draw mAP against latency, as PNG.")
def bench(
    export_dir: Path | None,
    batches: tuple[int, ...],
    threads: tuple[int, ...],
    devices: tuple[ExecutionDevice, ...],
    seconds: float,
    json_file: Path | None,
    picture: Path | None,
) -> None:
    """Time the files of an export here, turn about with PyTorch eager; default: the latest."""
    from dataclasses import asdict

    from pivl_distill.app.bench import bench_chart, print_bench, run_bench
    from pivl_distill.runtime.onnx_session import has_cuda
    from pivl_distill.storage.files import check_writable, write_json

    for file in (json_file, picture):
        if file is not None:
            check_writable(file)  # before the work, not after it
    threads = threads or (os.cpu_count() or 1,)
    engines = not devices or "cuda" in devices
    devices = devices or (("cpu", "cuda") if has_cuda() else ("cpu",))
    folder = export_dir or latest_export()
    report = run_bench(folder, batches, threads, devices, seconds, engines=engines)
    print_bench(report)
    if json_file is not None:
        write_json(json_file, asdict(report))
    if picture is not None:
        bench_chart(report, picture)


@click.command(
    epilog="""\b
Example:
  pivl-distill demo
"""
)
def demo() -> None:
    """Run the whole job on synthetic people and compare the students (about ten CPU minutes)."""
    from pivl_distill.app.demo import run_demo

    run_demo()

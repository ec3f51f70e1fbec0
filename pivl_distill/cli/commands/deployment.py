"""Commands on trained and exported networks: scores, embeddings, latency; and the demo."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pivl_distill.cli.options import (
    COUNT,
    HARDWARE,
    OUT_FILE,
    RUN_OR_FILE,
    camera_options,
    corruption_options,
    data_option,
    device_option,
    no_cache_option,
    preprocessing_options,
)
from pivl_distill.distributed import process_group

if TYPE_CHECKING:
    from pivl_distill.app.networks import Cameras
    from pivl_distill.config import DeviceChoice, Preprocessing
    from pivl_distill.retrieval.robustness import CorruptedSplit
    from pivl_distill.runtime.onnx_session import ExecutionDevice


@click.command(
    short_help="Score a network on query and gallery.",
    epilog="""\b
Examples:
  pivl-distill evaluate
  pivl-distill evaluate runs/export-1/model.onnx --sheet ranking.png
  pivl-distill evaluate runs/export-1 --corruptions --json scores.json
  pivl-distill evaluate runs/teach-1 --data market1501:/data/market --rerank
  pivl-distill evaluate runs/student-2 --gallery runs/student-1
  pivl-distill evaluate Market_ViT-B-16_60.pth --data market1501:/data/market
  pivl-distill evaluate osnet_x0_25.onnx --preset osnet --data market1501:/data/market
""",
)
@click.argument("target", required=False, type=RUN_OR_FILE)
@data_option
@no_cache_option
@camera_options
@preprocessing_options
@click.option("--gallery", metavar="RUN|FILE", type=RUN_OR_FILE, help="Also search this gallery.")
@click.option("--gallery-preset", metavar="NAME|FILE", help="Preprocessing of its .onnx or .xml.")
@click.option("--rerank", is_flag=True, help="Also score after k-reciprocal re-ranking.")
@corruption_options
@device_option(text="Where to compute; auto: a GPU if there is one, the CPU for ONNX files.")
@click.option("--json", "json_file", type=OUT_FILE, help="Also write all scores as JSON.")
@click.option("--sheet", type=OUT_FILE, help="Also draw the top matches of some queries, as PNG.")
def evaluate(
    target: Path | None,
    spec: str | None,
    no_cache: bool,
    cameras: Cameras,
    preprocessing: Preprocessing | None,
    device: DeviceChoice,
    gallery: Path | None,
    gallery_preset: str | None,
    rerank: bool,
    corrupted: CorruptedSplit | None,
    json_file: Path | None,
    sheet: Path | None,
) -> None:
    """Score a run, a checkpoint, an exported ONNX file or an engine by the Market-1501 protocol.

    TARGET is a run folder or a file, also a checkpoint published by CLIP-ReID; default: the
    latest student run. Any other ReID network can be an ONNX file or an OpenVINO IR (.xml); how
    its input is made is declared by a preset (osnet, intel-retail, fastreid, clip-reid, tao), a
    YAML file or options. --gallery also searches the gallery of another network, or of stored
    vectors.
    """
    from pivl_distill.app.evaluation_report import Scored
    from pivl_distill.app.ranking_sheet import ranking_sheet
    from pivl_distill.app.targets import evaluate_target
    from pivl_distill.foreign import load_preprocessing
    from pivl_distill.runs.run import Run

    target = target or Run.latest("student").path
    evaluation = evaluate_target(
        target, spec, cameras, preprocessing, cached=not no_cache, device=device
    )
    scored = Scored(evaluation)
    scored.print()
    if gallery is not None:
        declared = None if gallery_preset is None else load_preprocessing(gallery_preset)
        scored.add_gallery(gallery, declared)
    if rerank:
        scored.add_reranked()
    if corrupted is not None:
        scored.add_robustness(corrupted)
    if json_file is not None:
        scored.write(json_file)
    if sheet is not None and not process_group.rank():
        ranking_sheet(evaluation.features, evaluation.test, sheet)


@click.command(
    short_help="Time exported files against PyTorch.",
    epilog="""\b
Examples:
  pivl-distill bench
  pivl-distill bench deploy/ --threads 1 --threads 4 --batch 1 --batch 8 --batch 32
  pivl-distill bench --json bench.json --plot bench.png
  pivl-distill bench deploy/ --rival osnet.onnx=osnet --rival other.xml=intel-retail
  pivl-distill bench osnet.onnx --preset osnet
""",
)
@click.argument("target", metavar="[EXPORT|FILE]", required=False, type=RUN_OR_FILE)
@click.option(
    "--rival", "rivals", multiple=True, metavar="FILE=PRESET", help="Also time a network."
)
@preprocessing_options
@click.option("--batch", "batches", multiple=True, type=COUNT, default=(1, 32), show_default=True)
@click.option("--threads", multiple=True, type=COUNT, help="CPU threads; default: all cores.")
@click.option(
    "--device", "devices", multiple=True, type=HARDWARE, help="Default: CPU, and a GPU if any."
)
@click.option("--seconds", default=20.0, show_default=True, help="Per batch size and threads.")
@click.option("--json", "json_file", type=OUT_FILE, help="Also write all figures as JSON.")
@click.option("--plot", type=OUT_FILE, help="Also plot mAP against latency, as PNG.")
def bench(
    target: Path | None,
    rivals: tuple[str, ...],
    preprocessing: Preprocessing | None,
    batches: tuple[int, ...],
    threads: tuple[int, ...],
    devices: tuple[ExecutionDevice, ...],
    seconds: float,
    json_file: Path | None,
    plot: Path | None,
) -> None:
    """Time the files of an export, interleaved with PyTorch eager; default: the latest export.

    ONNX files and OpenVINO IRs of others are timed in the same rounds with --rival, or alone.
    """
    from pivl_distill.app.bench import BenchSettings, bench_rivals, run_bench
    from pivl_distill.app.bench_report import BenchOutputs
    from pivl_distill.app.bench_rivals import find_targets
    from pivl_distill.runtime.onnx_session import has_cuda

    folder, others = find_targets(target, preprocessing, rivals)
    outputs = BenchOutputs(json_file, plot)
    outputs.check(folder)
    settings = BenchSettings(
        batches,
        threads or (os.cpu_count() or 1,),
        devices or (("cpu", "cuda") if has_cuda() else ("cpu",)),
        seconds,
        engines=not devices or "cuda" in devices,
    )
    if folder is None:
        outputs.write(bench_rivals(others, settings))
    else:
        outputs.write(run_bench(folder, settings, others))


@click.command(
    short_help="Run every step on synthetic people.",
    epilog="""\b
Example:
  pivl-distill demo
""",
)
@device_option()
def demo(device: DeviceChoice) -> None:
    """Run every step on synthetic people and compare the networks (about ten minutes on a CPU)."""
    from pivl_distill.app.demo import run_demo
    from pivl_distill.report.write import write_demo_report

    run_demo(device, write_demo_report)

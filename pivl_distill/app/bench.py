"""`pivl-distill bench`: what the files of an export cost here, beside PyTorch eager in one run.

Times go from crops in memory to vectors in memory, copies to a GPU and back included. Peak memory
is that of a process of its own which loads one file and runs one batch on the CPU; engines, which
do not run there, have none.
"""

from __future__ import annotations

import itertools
import json
import os
import platform
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from export.benchmark import BenchmarkCase, BenchmarkResult, load_and_run_once, run_benchmark
from export.cost import Cost
from export.engines.engine_info import Gpu
from export.engines.runner import EngineRunner
from export.latency import random_inputs
from export.loading import embedding_model_from_spec
from export.manifest_schema import Artifact, Manifest, installed_versions, read_manifest
from export.peak_memory import peak_memory
from pivl_distill.app.chart import Dot, latency_chart
from pivl_distill.app.eager import eager, run_eager_once
from pivl_distill.app.report import percent
from pivl_distill.app.targets import Cameras, load_checkpoint
from pivl_distill.console import note, table, track
from pivl_distill.errors import PivlError
from pivl_distill.runs.filenames import RUN_FILE
from pivl_distill.runtime.manifest_reader import check_file
from pivl_distill.runtime.onnx_session import CPU, PROVIDERS, ExecutionDevice, open_session
from pivl_distill.storage.files import sha256

EAGER = "PyTorch eager"
LATENCY_COLUMNS = (
    *("", "device", "threads", "batch", "p50 ms", "p90 ms", "p99 ms"),
    *("crops/s", "against eager", "runs"),
)
COST_COLUMNS = ("", "precision", "file", "peak memory", "mAP")


@dataclass(frozen=True)
class FileCost:
    """A file, or the checkpoint under PyTorch, and what it costs besides time.

    mAP is a share of 1, from the export's own verification.
    """

    name: str
    precision: str
    file_bytes: int
    peak_bytes: int | None
    mAP: float | None  # noqa: N815


@dataclass(frozen=True)
class Checkpoint:
    """What was exported: its file, and how its cameras were used."""

    path: Path
    cameras: Cameras


@dataclass(frozen=True)
class BenchReport:
    """All that was measured, and on what; `cost` is the network's in every precision."""

    network: str
    cost: Cost
    machine: dict[str, object]
    subjects: list[FileCost]
    timings: list[BenchmarkResult]


def run_bench(
    folder: Path,
    batches: Sequence[int],
    threads: Sequence[int],
    devices: Sequence[ExecutionDevice],
    seconds: float,
    *,
    engines: bool = True,
) -> BenchReport:
    """Measure every ONNX file of an export that runs on `devices`, beside PyTorch eager.

    With `engines` those too that the GPU here takes. Each pair of a batch size and a number of
    threads takes about `seconds`. Raises PivlError if no file can be run.
    """
    manifest = read_manifest(folder)
    runners = _runners(folder, manifest) if engines else {}
    artifacts = [
        artifact
        for artifact in manifest.artifacts
        if artifact.file in runners or any(_runs_on(artifact, device) for device in devices)
    ]
    for artifact in manifest.artifacts:
        if artifact not in artifacts:
            note(f"{artifact.file} is left out: {_why_not(artifact)}.")
    if not artifacts:
        raise PivlError(f"No file in '{folder}' can be timed on {' or '.join(devices)}.")
    for artifact in artifacts:
        check_file(folder / artifact.file, artifact.bytes, artifact.sha256)
    checkpoint = _find_checkpoint(folder, manifest)
    model = None if checkpoint is None else load_checkpoint(checkpoint.path, checkpoint.cameras)
    compared = list(devices)
    if runners and "cuda" not in compared:
        compared.append("cuda")  # PyTorch there too, beside the engines
    in_graph = manifest.input.preprocessing_in_graph
    timings = []
    settings = list(itertools.product(threads, batches))
    for count, batch in track(settings, "Timing", unit="settings"):
        torch.set_num_threads(count)
        ways = [
            _onnx_way(folder / artifact.file, device, count, batch)
            for device in devices
            for artifact in artifacts
            if _runs_on(artifact, device)
        ]
        for name, runner in runners.items():
            ways.append(_engine_way(name, runner, manifest, count, batch))
        if model is not None:
            for device in compared:
                run = eager(model, device, batch, in_graph=in_graph)
                ways.append(BenchmarkCase(EAGER, device, count, batch, run))
        timings += run_benchmark(ways, max_seconds=seconds)
    subjects = _subjects(folder, artifacts, checkpoint, threads[0], max(batches))
    return BenchReport(manifest.name, manifest.cost, _machine(), subjects, timings)


def print_bench(report: BenchReport) -> None:
    """Latency and throughput of every way, then what each file costs besides."""
    eager = {(t.device, t.threads, t.batch): t.p50_ms for t in report.timings if t.name == EAGER}
    rows = []
    for t in report.timings:
        base = eager.get((t.device, t.threads, t.batch))
        faster = "" if base is None else f"{base / t.p50_ms:.1f}×"
        times = (f"{ms:.2f}" for ms in (t.p50_ms, t.p90_ms, t.p99_ms))
        rate = f"{t.crops_per_second:,.0f}"
        rows.append((t.name, t.device, t.threads, t.batch, *times, rate, faster, t.runs))
    table(f"{report.network}: latency", LATENCY_COLUMNS, rows)
    cost = f"{report.cost.parameters:,} parameters, {report.cost.macs:,} multiply-adds"
    table(f"Cost: {cost}", COST_COLUMNS, [_cells(subject) for subject in report.subjects])


def bench_chart(report: BenchReport, out: Path) -> None:
    """Draw mAP against latency at the first batch size and thread count; PNG."""
    scores = {s.name: s.mAP for s in report.subjects}
    first = report.timings[0]
    dots = [
        Dot(f"{t.name}, {t.device}", t.p50_ms, score)
        for t in report.timings
        if (t.threads, t.batch) == (first.threads, first.batch)
        and (score := scores[t.name]) is not None
    ]
    if not dots:
        raise PivlError("The manifest holds no mAP to draw; export again with --data.")
    title = f"{report.network}: batch {first.batch}, {first.threads} threads"
    latency_chart(dots, title, out)


def _runs_on(artifact: Artifact, device: ExecutionDevice) -> bool:
    runs = artifact.kind == "onnx" and artifact.runs_on in ("any", device)
    return runs and artifact.status != "failed"


def _why_not(artifact: Artifact) -> str:
    if artifact.status == "failed":
        return "it failed its verification"
    return f"made for {artifact.runs_on}"


def _runners(folder: Path, manifest: Manifest) -> dict[str, EngineRunner]:
    """The engines of an export that run on the GPU here, by file; one that does not says why."""
    gpu, runners = Gpu.current(), {}
    for artifact in manifest.artifacts:
        if gpu is None or artifact.kind == "onnx" or artifact.status == "failed":
            continue
        try:
            check_file(folder / artifact.file, artifact.bytes, artifact.sha256)
            runners[artifact.file] = EngineRunner(folder / artifact.file)
        except PivlError as error:
            note(str(error))
    return runners


def _find_checkpoint(folder: Path, manifest: Manifest) -> Checkpoint | None:
    """The checkpoint that was exported, if it is still where it was and what it was."""
    run = folder / RUN_FILE
    metadata = json.loads(run.read_bytes()) if run.is_file() else {}
    source = Path(metadata.get("source", ""))
    if source.is_file() and manifest.source.get(source.name) == sha256(source):
        return Checkpoint(
            source, Cameras(metadata.get("camera"), metadata.get("sie_coefficient", 1.0))
        )
    note("PyTorch is left out: the checkpoint of this export is not there.")
    return None


def _onnx_way(path: Path, device: ExecutionDevice, threads: int, batch: int) -> BenchmarkCase:
    session = open_session(path, threads=threads, providers=[PROVIDERS[device]])
    run = partial(session.run, None, random_inputs(session, batch))
    return BenchmarkCase(path.name, device, threads, batch, run)


def _engine_way(
    name: str, runner: EngineRunner, manifest: Manifest, threads: int, batch: int
) -> BenchmarkCase:
    """An engine on random crops, memory to memory."""
    model = embedding_model_from_spec(name, manifest.input)
    shape = (batch, *model.size_hw, 3)
    inputs = [model.preprocess(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))]
    if model.cameras:
        inputs.append(torch.zeros(batch, dtype=torch.long))
    return BenchmarkCase(name, "cuda", threads, batch, lambda: runner(*inputs).cpu())


def _subjects(
    folder: Path,
    artifacts: Sequence[Artifact],
    checkpoint: Checkpoint | None,
    threads: int,
    batch: int,
) -> list[FileCost]:
    """What each file costs besides time, the checkpoint last."""
    subjects = []
    for artifact in artifacts:
        file, peak = folder / artifact.file, None
        if artifact.kind == "onnx":
            peak = peak_memory(load_and_run_once, file, CPU, threads, batch)
        retrieval = artifact.retrieval
        score = retrieval.exported_mAP if retrieval else None
        subjects.append(FileCost(artifact.file, artifact.precision, artifact.bytes, peak, score))
    if checkpoint is not None:
        peak = peak_memory(run_eager_once, checkpoint.path, checkpoint.cameras, threads, batch)
        retrieval = artifacts[0].retrieval
        score = retrieval.checkpoint_mAP if retrieval else None
        subjects.append(FileCost(EAGER, "fp32", checkpoint.path.stat().st_size, peak, score))
    return subjects


def _cells(subject: FileCost) -> tuple[str, ...]:
    return (
        subject.name,
        subject.precision,
        f"{subject.file_bytes / 1e6:.2f} MB",
        "" if subject.peak_bytes is None else f"{subject.peak_bytes / 1e6:,.0f} MB",
        "" if subject.mAP is None else percent(subject.mAP),
    )


def _machine() -> dict[str, object]:
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "versions": installed_versions(),
    }


def _processor() -> str:
    """The processor's name as Linux tells it, elsewhere what Python knows."""
    metadata = Path("/proc/cpuinfo")
    named = re.search(r"model name\s*: (.+)", metadata.read_text()) if metadata.exists() else None
    return named[1] if named else platform.processor()

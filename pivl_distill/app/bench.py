"""`pivl-distill bench`: latency, memory and accuracy of exported files and of PyTorch eager.

Latency is from crops in memory to embeddings in memory, including copies to and from a GPU. Peak
memory is that of a separate process that loads one file and runs one batch on the CPU; it is not
measured for engines, which do not run there.
"""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Collection, Sequence
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
from pivl_distill.app.bench_rivals import Rival
from pivl_distill.app.eager import eager, run_eager_once
from pivl_distill.app.networks import Cameras, load_checkpoint
from pivl_distill.console import track
from pivl_distill.device import processor_name
from pivl_distill.errors import PivlError
from pivl_distill.foreign import NETWORK_SUFFIXES
from pivl_distill.runtime.manifest_reader import RUNNABLE_KINDS
from pivl_distill.runtime.onnx_session import ExecutionDevice
from pivl_distill.runtime.open_artifact import open_network
from pivl_distill.runtime.verified_files import check_file
from pivl_distill.storage.filenames import RUN_FILE, utf8_name
from pivl_distill.storage.files import sha256
from pivl_distill.storage.readers import read_json

logger = logging.getLogger(__name__)

EAGER = "PyTorch eager"


@dataclass(frozen=True)
class FileCost:
    """Costs other than latency of a file, or of the checkpoint under PyTorch.

    mAP is in 0..1, from the verification of the export.
    """

    name: str
    precision: str
    file_bytes: int
    peak_bytes: int | None
    mAP: float | None  # noqa: N815


@dataclass(frozen=True)
class Checkpoint:
    """The checkpoint that was exported, and how its camera embeddings were used."""

    path: Path
    cameras: Cameras


@dataclass(frozen=True)
class BenchSettings:
    """What to time: every pair of a batch size and a thread count, each for about `seconds`.

    With `engines`, also the engines that the GPU here can run.
    """

    batches: Sequence[int]
    threads: Sequence[int]
    devices: Sequence[ExecutionDevice]
    seconds: float
    engines: bool = True


@dataclass(frozen=True)
class BenchReport:
    """All measurements, and the machine; `cost` is the network's, equal in every precision."""

    network: str
    cost: Cost | None
    """None without an export."""
    machine: dict[str, object]
    files: list[FileCost]
    timings: list[BenchmarkResult]


def run_bench(folder: Path, settings: BenchSettings, rivals: Sequence[Rival] = ()) -> BenchReport:
    """Time every file of an export that runs on the devices, interleaved with PyTorch eager.

    Networks of others, the `rivals`, are timed in the same rounds. Raises PivlError if no file can
    run, or a file is not the one its manifest describes.
    """
    manifest = read_manifest(folder)
    runners = _load_engines(folder, manifest) if settings.engines else {}
    artifacts = _runnable(folder, manifest, runners.keys(), settings.devices)
    checkpoint = _find_checkpoint(folder, manifest)
    model = None if checkpoint is None else load_checkpoint(checkpoint.path, checkpoint.cameras)
    eager_devices = list(settings.devices)
    if runners and "cuda" not in eager_devices:
        eager_devices.append("cuda")  # the baseline of the engines
    in_graph = manifest.input.preprocessing_in_graph
    timings: list[BenchmarkResult] = []
    combinations = list(itertools.product(settings.threads, settings.batches))
    for threads, batch in track(combinations, "Timing", unit="settings"):
        torch.set_num_threads(threads)
        cases = [
            _network_case(folder / artifact.file, device, threads, batch)
            for device in settings.devices
            for artifact in artifacts
            if _runs_on(artifact, device)
        ]
        for name, runner in runners.items():
            cases.append(_engine_case(name, runner, manifest, threads, batch))
        if model is not None:
            for device in eager_devices:
                run = eager(model, device, batch, in_graph=in_graph)
                cases.append(BenchmarkCase(EAGER, device, threads, batch, run))
        cases += _rival_cases(rivals, settings, threads, batch)
        timings += run_benchmark(cases, max_seconds=settings.seconds)
    files = _file_costs(folder, artifacts, checkpoint, settings) + _rival_costs(rivals)
    return BenchReport(manifest.name, manifest.cost, _machine(), files, timings)


def bench_rivals(rivals: Sequence[Rival], settings: BenchSettings) -> BenchReport:
    """Time networks of others alone, as `run_bench` times them beside an export."""
    timings: list[BenchmarkResult] = []
    combinations = list(itertools.product(settings.threads, settings.batches))
    for threads, batch in track(combinations, "Timing", unit="settings"):
        torch.set_num_threads(threads)
        cases = _rival_cases(rivals, settings, threads, batch)
        timings += run_benchmark(cases, max_seconds=settings.seconds)
    names = ", ".join(rival.path.name for rival in rivals)
    return BenchReport(names, None, _machine(), _rival_costs(rivals), timings)


def _rival_cases(
    rivals: Sequence[Rival], settings: BenchSettings, threads: int, batch: int
) -> list[BenchmarkCase]:
    """Return the networks of others; OpenVINO IRs run on the CPU only."""
    return [
        rival.case(device, threads, batch)
        for rival in rivals
        for device in settings.devices
        if device == "cpu" or rival.path.suffix == ".onnx"
    ]


def _rival_costs(rivals: Sequence[Rival]) -> list[FileCost]:
    """Return the size of each file; its precision, memory and mAP are not measured."""
    return [FileCost(r.path.name, "", r.file_bytes, None, None) for r in rivals]


def _runnable(
    folder: Path,
    manifest: Manifest,
    engines: Collection[str],
    devices: Sequence[ExecutionDevice],
) -> list[Artifact]:
    """The artifacts that can be timed, their hashes checked; notes the others."""
    artifacts = [
        artifact
        for artifact in manifest.artifacts
        if artifact.file in engines or any(_runs_on(artifact, device) for device in devices)
    ]
    for artifact in manifest.artifacts:
        if artifact not in artifacts:
            logger.warning(f"{artifact.file} is left out: {_why_not(artifact)}.")
    if not artifacts:
        raise PivlError(f"No file in '{folder}' can be timed on {' or '.join(devices)}.")
    for artifact in artifacts:
        for stored in artifact.files:
            check_file(folder / stored.file, stored.bytes, stored.sha256)
    return artifacts


def _runs_on(artifact: Artifact, device: ExecutionDevice) -> bool:
    runs = artifact.kind in RUNNABLE_KINDS and artifact.runs_on in ("any", device)
    return runs and artifact.status != "failed"


def _why_not(artifact: Artifact) -> str:
    if artifact.status == "failed":
        return "it failed its verification"
    return f"made for {artifact.runs_on}"


def _load_engines(folder: Path, manifest: Manifest) -> dict[str, EngineRunner]:
    """The engines of an export that run on the GPU here, by file; notes why others do not."""
    gpu, runners = Gpu.current(), {}
    for artifact in manifest.artifacts:
        if gpu is None or artifact.kind in RUNNABLE_KINDS or artifact.status == "failed":
            continue
        try:
            check_file(folder / artifact.file, artifact.bytes, artifact.sha256)
            runners[artifact.file] = EngineRunner(folder / artifact.file)
        except PivlError as error:
            logger.warning(str(error))
    return runners


def _find_checkpoint(folder: Path, manifest: Manifest) -> Checkpoint | None:
    """The checkpoint that was exported, if the file still exists and is unchanged."""
    run = folder / RUN_FILE
    metadata = read_json(run, "the summary of a run") if run.is_file() else {}
    source = Path(str(metadata.get("source", "")))
    if source.suffix in NETWORK_SUFFIXES:
        logger.info("PyTorch is left out: this export is of an ONNX file of others.")
        return None
    if source.is_file() and manifest.source.get(utf8_name(source.name)) == sha256(source):
        return Checkpoint(
            source, Cameras(metadata.get("camera"), metadata.get("sie_coefficient", 1.0))
        )
    logger.warning("PyTorch is left out: the checkpoint of this export is missing or has changed.")
    return None


def _network_case(path: Path, device: ExecutionDevice, threads: int, batch: int) -> BenchmarkCase:
    session = open_network(path, device, threads)
    run = partial(session.run, None, random_inputs(session, batch))
    return BenchmarkCase(path.name, device, threads, batch, run)


def _engine_case(
    name: str, runner: EngineRunner, manifest: Manifest, threads: int, batch: int
) -> BenchmarkCase:
    """An engine on random crops; includes the copies to and from the GPU."""
    model = embedding_model_from_spec(name, manifest.input)
    shape = (batch, *model.size_hw, 3)
    inputs = [model.preprocess(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))]
    if model.cameras:
        inputs.append(torch.zeros(batch, dtype=torch.long))
    return BenchmarkCase(name, "cuda", threads, batch, lambda: runner(*inputs).cpu())


def _file_costs(
    folder: Path,
    artifacts: Sequence[Artifact],
    checkpoint: Checkpoint | None,
    settings: BenchSettings,
) -> list[FileCost]:
    """Size, peak memory and mAP of each file, the checkpoint last."""
    threads, batch = settings.threads[0], max(settings.batches)
    costs = []
    for artifact in artifacts:
        file, peak = folder / artifact.file, None
        if artifact.kind in RUNNABLE_KINDS:
            peak = peak_memory(load_and_run_once, file, "cpu", threads, batch)
        retrieval = artifact.retrieval
        score = retrieval.exported_mAP if retrieval else None
        size = sum(stored.bytes for stored in artifact.files)
        costs.append(FileCost(artifact.file, artifact.precision, size, peak, score))
    if checkpoint is not None:
        peak = peak_memory(run_eager_once, checkpoint.path, checkpoint.cameras, threads, batch)
        retrieval = artifacts[0].retrieval
        score = retrieval.checkpoint_mAP if retrieval else None
        costs.append(FileCost(EAGER, "fp32", checkpoint.path.stat().st_size, peak, score))
    return costs


def _machine() -> dict[str, object]:
    return {
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "versions": installed_versions(),
    }

"""`pivl-distill bench`: what the files of an export cost here, beside PyTorch eager in one run.

Times go from crops in memory to vectors in memory, copies to a GPU and back included. Peak memory
is that of a process of its own which loads one file and runs one batch on the CPU.
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
from typing import Any

import onnxruntime as ort
import torch

from export.bench import Timing, Way, random_feed, run_once, time_ways
from export.memory import peak_memory
from pivl_distill.cli.chart import Dot, latency_chart
from pivl_distill.cli.eager import eager, run_eager_once
from pivl_distill.cli.report import percent
from pivl_distill.cli.sources import load_checkpoint
from pivl_distill.console import note, table, track
from pivl_distill.errors import PivlError
from pivl_distill.files import sha256
from pivl_distill.runtime.manifest import (
    FILE_NAME,
    Artifact,
    Manifest,
    checked_file,
    read_manifest,
)
from pivl_distill.runtime.session import CPU, PROVIDERS, Device, open_session

EAGER = "PyTorch eager"
LATENCY_COLUMNS = (
    *("", "device", "threads", "batch", "p50 ms", "p90 ms", "p99 ms"),
    *("crops/s", "against eager", "rounds"),
)
COST_COLUMNS = ("", "precision", "parameters", "multiply-adds", "file", "peak memory", "mAP")


@dataclass(frozen=True)
class Subject:
    """A file, or the checkpoint under PyTorch, and what it costs besides time.

    Parameters and multiply-adds are the network's: lower precision changes neither. mAP is a share
    of 1, from the export's own verification.
    """

    name: str
    precision: str
    file_bytes: int
    peak_bytes: int | None
    parameters: int | None
    macs: int | None
    mAP: float | None  # noqa: N815


@dataclass(frozen=True)
class BenchReport:
    """All that was measured, and on what."""

    network: str
    machine: dict[str, object]
    subjects: list[Subject]
    timings: list[Timing]


def run_bench(
    folder: Path,
    batches: Sequence[int],
    threads: Sequence[int],
    devices: Sequence[Device],
    seconds: float,
) -> BenchReport:
    """Measure every ONNX file of an export that runs on `devices`, beside PyTorch eager.

    Each pair of a batch size and a number of threads takes about `seconds`. Raises PivlError if no
    file can be run.
    """
    manifest = read_manifest(folder)
    facts = json.loads((folder / FILE_NAME).read_bytes())
    runnable = {device: _runnable(manifest, device) for device in devices}
    artifacts = [a for a in manifest.artifacts if any(a in found for found in runnable.values())]
    for artifact in manifest.artifacts:
        if artifact not in artifacts:
            note(f"{artifact} is left out: it failed, or nothing here runs it.")
    if not artifacts:
        raise PivlError(f"No file in '{folder}' can be timed on {' or '.join(devices)}.")
    checkpoint = _find_checkpoint(folder, facts)
    model = None if checkpoint is None else load_checkpoint(checkpoint)
    timings = []
    settings = list(itertools.product(threads, batches))
    for count, batch in track(settings, "Timing", unit="settings"):
        torch.set_num_threads(count)
        ways = [
            _onnx_way(manifest, artifact, device, count, batch)
            for device in devices
            for artifact in runnable[device]
        ]
        if model is not None:
            for device in devices:
                run = eager(model, device, batch, in_graph=manifest.input.in_graph)
                ways.append(Way(EAGER, device, count, batch, run))
        timings += time_ways(ways, max_seconds=seconds)
    subjects = _subjects(manifest, facts, artifacts, checkpoint, threads[0], max(batches))
    return BenchReport(manifest.name, _machine(), subjects, timings)


def print_bench(report: BenchReport) -> None:
    """Latency and throughput of every way, then what each file costs besides."""
    eager = {(t.device, t.threads, t.batch): t.p50_ms for t in report.timings if t.name == EAGER}
    rows = []
    for t in report.timings:
        base = eager.get((t.device, t.threads, t.batch))
        faster = "" if base is None else f"{base / t.p50_ms:.1f}×"
        times = (f"{ms:.2f}" for ms in (t.p50_ms, t.p90_ms, t.p99_ms))
        rate = f"{t.crops_per_second:,.0f}"
        rows.append((t.name, t.device, t.threads, t.batch, *times, rate, faster, t.rounds))
    table(f"{report.network}: latency", LATENCY_COLUMNS, rows)
    table("Cost", COST_COLUMNS, [_cells(subject) for subject in report.subjects])


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


def _runnable(manifest: Manifest, device: Device) -> list[Artifact]:
    return [
        artifact
        for artifact in manifest.artifacts
        if artifact.kind == "onnx"
        and artifact.runs_on in ("any", device)
        and artifact.status != "failed"
    ]


def _find_checkpoint(folder: Path, facts: dict[str, Any]) -> Path | None:
    """The checkpoint that was exported, if it is still where it was and what it was."""
    run = folder / "run.json"
    source = Path(json.loads(run.read_bytes()).get("source", "")) if run.is_file() else Path()
    if source.is_file() and facts.get("source", {}).get(source.name) == sha256(source):
        return source
    note("PyTorch is left out: the checkpoint of this export is not there.")
    return None


def _onnx_way(
    manifest: Manifest, artifact: Artifact, device: Device, threads: int, batch: int
) -> Way:
    path = checked_file(manifest, artifact)
    session = open_session(path, threads=threads, providers=[PROVIDERS[device]])
    run = partial(session.run, None, random_feed(session, batch))
    return Way(artifact.file, device, threads, batch, run)


def _subjects(
    manifest: Manifest,
    facts: dict[str, Any],
    artifacts: Sequence[Artifact],
    checkpoint: Path | None,
    threads: int,
    batch: int,
) -> list[Subject]:
    """What each file costs besides time, the checkpoint last."""
    cost = facts.get("cost") or {}
    parameters, macs = cost.get("parameters"), cost.get("macs")
    scores = {found["file"]: found.get("retrieval") or {} for found in facts["artifacts"]}
    subjects = []
    for artifact in artifacts:
        path = manifest.folder / artifact.file
        size, score = path.stat().st_size, scores[artifact.file].get("exported_mAP")
        peak = peak_memory(run_once, path, CPU, threads, batch)
        subjects.append(
            Subject(artifact.file, artifact.precision, size, peak, parameters, macs, score)
        )
    if checkpoint is not None:
        score = scores[artifacts[0].file].get("checkpoint_mAP")
        peak = peak_memory(run_eager_once, checkpoint, threads, batch)
        size = checkpoint.stat().st_size
        subjects.append(Subject(EAGER, "fp32", size, peak, parameters, macs, score))
    return subjects


def _cells(subject: Subject) -> tuple[str, ...]:
    def cell(value: float | None, text: str, scale: float = 1) -> str:
        return "" if value is None else text.format(value / scale)

    return (
        subject.name,
        subject.precision,
        cell(subject.parameters, "{:,.0f}"),
        cell(subject.macs, "{:,.1f} M", 1e6),
        cell(subject.file_bytes, "{:.2f} MB", 1e6),
        cell(subject.peak_bytes, "{:,.0f} MB", 1e6),
        "" if subject.mAP is None else percent(subject.mAP),
    )


def _machine() -> dict[str, object]:
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "onnxruntime": ort.__version__,
        "torch": torch.__version__,
    }


def _processor() -> str:
    """The processor's name as Linux tells it, elsewhere what Python knows."""
    facts = Path("/proc/cpuinfo")
    named = re.search(r"model name\s*: (.+)", facts.read_text()) if facts.exists() else None
    return named[1] if named else platform.processor()

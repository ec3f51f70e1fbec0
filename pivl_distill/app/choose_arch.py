"""`pivl-distill student --max-ms`: choose the largest student that meets a latency budget.

Each candidate is exported untrained, since latency does not depend on the weights. The exported
files are timed interleaved, at batch size 1 and the crop size of the data.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from export.cost import Cost, network_cost
from export.latency import measure_latency
from export.onnx_export import write_onnx
from pivl_distill.config import StudentConfig
from pivl_distill.console import table, track
from pivl_distill.runtime.onnx_session import PROVIDERS, ExecutionDevice, open_session
from pivl_distill.storage.filenames import FP32_FILE
from students.backbones import create_backbone
from students.candidates import CANDIDATES, Candidate, choose_candidate
from students.student import bare_embedding_model

SECONDS = 20.0
"""Time budget for all candidates together."""


def choose_arch(settings: StudentConfig, max_ms: float, device: ExecutionDevice) -> StudentConfig:
    """Return the settings with the largest architecture within the budget; print all.

    Raises PivlError if no candidate meets it or the device is not available.
    """
    exported = [
        export_candidate(arch, settings, device)
        for arch in track(CANDIDATES, "Exporting candidates", unit="networks")
    ]
    sessions = [session for _, session in exported]
    latencies = measure_latency(sessions, batch=1, max_seconds=SECONDS)
    candidates = [
        Candidate(arch, cost.parameters, cost.macs, latency.median_ms)
        for arch, (cost, _), latency in zip(CANDIDATES, exported, latencies, strict=True)
    ]
    height, width = settings.data.size_hw
    rows = [
        (
            candidate.arch,
            f"{candidate.parameters / 1e6:.2f} M",
            f"{candidate.macs / 1e6:.1f} M",
            f"{candidate.latency_ms:.2f} ms",
            "yes" if candidate.latency_ms <= max_ms else "no",
        )
        for candidate in candidates
    ]
    columns = ("", "parameters", "multiply-adds", "batch 1", f"≤ {max_ms:g} ms")
    table(f"Candidates at {height}×{width}, ONNX Runtime on the {device}", columns, rows)
    return settings.model_copy(update={"arch": choose_candidate(candidates, max_ms).arch})


def export_candidate(
    arch: str, settings: StudentConfig, device: ExecutionDevice
) -> tuple[Cost, Any]:
    """Export an untrained student; return its cost and an ONNX Runtime session."""
    size_hw = settings.data.size_hw
    network = create_backbone(arch, image_size_hw=size_hw, last_stride=settings.last_stride).eval()
    model = bare_embedding_model(arch, network, size_hw)
    with tempfile.TemporaryDirectory() as folder:
        path = write_onnx(model, Path(folder) / FP32_FILE)
        session = open_session(path, providers=[PROVIDERS[device]])
    return network_cost(network, size_hw), session

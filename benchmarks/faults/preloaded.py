"""Everything that the forked processes need, imported once, and used once where that is slow."""

from __future__ import annotations

import importlib
import tempfile
from pathlib import Path

import torch
from torch import nn

import export.exporter
import export.latency
from export.onnx_export import write_onnx
from pivl_distill.models.embedding import EmbeddingModel

for _name in (
    "benchmarks.faults.injection",
    "export.engine_exporter",
    "pivl_distill.app.embed_folder",
    "pivl_distill.app.export_run",
    "pivl_distill.app.ranking_sheet",
    "pivl_distill.app.targets",
    "pivl_distill.cli",
    "pivl_distill.parsing.parse_dataset",
    "pyarrow.parquet",
    "students.distill",
    "teachers.teach",
):
    importlib.import_module(_name)


def shorten_latency() -> None:
    """Measure latency without pauses and with one size of batches; it is not compared."""
    export.latency.SLEEP_S = export.latency.BURST_S = 0.0
    export.exporter.LATENCY_BATCHES = (1,)


with tempfile.TemporaryDirectory() as _folder:
    _network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    with torch.no_grad():
        write_onnx(
            EmbeddingModel("", _network, (8, 8), (0,) * 3, (1,) * 3), Path(_folder, "a.onnx")
        )

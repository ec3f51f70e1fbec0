"""INT8 against float32 on the CPU: `python benchmarks/int8_latency.py`.

MobileNetV2 ×0.25 at 256×128 on two threads, both exported files interleaved, batch 1 and 32, with
the embedded weights, calibrated on synthetic people. Each export reports its own accuracy loss.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from harness import Row, report, speedup

from export.calibration import calibration_crops, measure_ranges
from export.int8 import write_int8
from export.latency import measure_latency
from export.onnx_export import write_onnx
from export.source import input_spec
from pivl_distill.data.datasets import load_dataset
from pivl_distill.models.embedding import EmbeddingModel
from pivl_distill.runtime.onnx_session import open_session
from students.backbones import create_backbone
from students.start import WEIGHTS_DIR
from students.student import IMAGENET_MEAN, IMAGENET_STD

ARCH, SIZE_HW, THREADS = "mobilenetv2_025", (256, 128), 2
RUNS, SECONDS = 200, 30
LEAST_SPEEDUP = 1.3


def main() -> None:
    torch.set_num_threads(THREADS)
    weights = WEIGHTS_DIR / f"{ARCH}.safetensors"
    network = create_backbone(ARCH, pretrained=weights, image_size_hw=SIZE_HW).eval()
    model = EmbeddingModel(ARCH, network, SIZE_HW, IMAGENET_MEAN, IMAGENET_STD)
    crops = calibration_crops(load_dataset("synthetic:default").train, SIZE_HW)
    with tempfile.TemporaryDirectory() as folder:
        fp32 = write_onnx(model, Path(folder) / "model.onnx")
        ranges = measure_ranges(fp32, input_spec(model), crops)
        int8 = write_int8(fp32, Path(folder) / "model.int8.onnx", "cpu", ranges)
        sessions = [open_session(path, threads=THREADS) for path in (fp32, int8)]
    rows: list[Row] = []
    for batch in (1, 32):
        before, after = (
            latency.median_ms
            for latency in measure_latency(sessions, batch, max_repeats=RUNS, max_seconds=SECONDS)
        )
        name = f"INT8 {ARCH}, batch {batch}, against its float32 file"
        rows.append(speedup(name, after, before, "ms", LEAST_SPEEDUP))
    report(f"{ARCH} at {SIZE_HW[0]}×{SIZE_HW[1]}", rows)


if __name__ == "__main__":
    main()

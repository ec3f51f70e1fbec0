"""INT8 against float32 on the CPU: `python benchmarks/int8_latency.py`.

MobileNetV2 ×0.25 at 256×128 on two threads, both exported files in turns, batch 1 and 32, with the
embedded weights, calibrated on synthetic people. What INT8 costs in accuracy is stated by each
export itself.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from export.calibration import calibration_crops, measure_ranges
from export.exporter import input_spec
from export.graph import write_onnx
from export.int8 import write_int8
from export.latency import measure_latency
from export.session import open_session
from pivl_distill.data.datasets import load_dataset
from pivl_distill.embedding import EmbeddingModel
from students.archs import create_backbone
from students.distill import WEIGHTS_DIR
from students.student import IMAGENET_MEAN, IMAGENET_STD

SIZE_HW, THREADS, TURNS, SECONDS = (256, 128), 2, 200, 30


def main() -> None:
    weights = WEIGHTS_DIR / "mobilenetv2_025.safetensors"
    network = create_backbone("mobilenetv2_025", pretrained=weights, image_size_hw=SIZE_HW).eval()
    model = EmbeddingModel("mobilenetv2_025", network, SIZE_HW, IMAGENET_MEAN, IMAGENET_STD)
    crops = calibration_crops(load_dataset("synthetic:default").train, SIZE_HW)
    with tempfile.TemporaryDirectory() as folder:
        fp32 = write_onnx(model, Path(folder) / "model.onnx")
        ranges = measure_ranges(fp32, input_spec(model), crops)
        int8 = write_int8(fp32, Path(folder) / "model.int8.onnx", "cpu", ranges)
        sessions = [open_session(path, threads=THREADS) for path in (fp32, int8)]
    for batch in (1, 32):
        before, after = measure_latency(sessions, batch, max_repeats=TURNS, max_seconds=SECONDS)
        print(
            f"batch {batch:>2}: INT8 {after.median_ms:6.2f} ms, float32 (baseline)"
            f" {before.median_ms:6.2f} ms, {before.median_ms / after.median_ms:.2f}× faster"
            f" (medians of {after.repeats} turns)"
        )


if __name__ == "__main__":
    main()

"""The exported student against PyTorch eager: `python benchmarks/exported_latency.py`.

MobileNetV2 ×0.25 at 256×128 on two threads, batch 1 and 32; the two are interleaved in one run, so
that noise of the machine meets both. Random weights: latency does not depend on them.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import torch

from export.graph import write_onnx
from export.session import open_session, run
from pivl_distill.embedding import EmbeddingModel
from students.archs import create_backbone
from students.student import IMAGENET_MEAN, IMAGENET_STD

SIZE_HW, THREADS, ROUNDS = (256, 128), 2, 30


def main() -> None:
    torch.set_num_threads(THREADS)
    network = create_backbone("mobilenetv2_025", image_size_hw=SIZE_HW).eval()
    model = EmbeddingModel("mobilenetv2_025", network, SIZE_HW, IMAGENET_MEAN, IMAGENET_STD)
    with tempfile.TemporaryDirectory() as folder:
        path = write_onnx(model, Path(folder) / "model.onnx")
        session = open_session(path, threads=THREADS)
    for batch in (1, 32):
        images = torch.randn(batch, 3, *SIZE_HW)
        times: dict[str, list[float]] = {"eager": [], "onnx": []}
        with torch.inference_mode():
            for _ in range(ROUNDS):
                for name, forward in (
                    ("eager", network),
                    ("onnx", lambda images: run(session, images)),
                ):
                    start = time.perf_counter()
                    forward(images)
                    times[name].append(1000 * (time.perf_counter() - start))
        eager, onnx = (statistics.median(times[name][3:]) for name in ("eager", "onnx"))
        print(
            f"batch {batch:>2}: ONNX Runtime {onnx:7.2f} ms, PyTorch eager (baseline)"
            f" {eager:7.2f} ms, {eager / onnx:.1f}× faster"
        )


if __name__ == "__main__":
    main()

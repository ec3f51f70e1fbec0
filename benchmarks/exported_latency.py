"""The exported student against PyTorch eager and the bare backbone: `make bench`, or

    python benchmarks/exported_latency.py

MobileNetV2 ×0.25 at 256×128 on two threads, batch 1 and 32; runs are interleaved. The student is
exported by this package, after neck, text projection and fusion head were built around it as in
training; the bare backbone is created separately and exported with plain torch.onnx. Both graphs
hold the same operators, yet two sessions of one file differ by a few percent because of their
memory addresses. Several sessions of each file are therefore interleaved. One file then runs every
batch size from 1 to 64. Weights are random, which does not affect latency.
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from harness import Row, bound, overhead, report, speedup

from export.latency import random_inputs, time_interleaved
from export.onnx_export import write_onnx
from pivl_distill.config import HeadSettings
from pivl_distill.runtime.onnx_session import open_session
from students.backbones import create_backbone
from students.student import Student

ARCH, SIZE_HW, THREADS = "mobilenetv2_025", (256, 128), 2
LEAST_SPEEDUP = {1: 4.0, 32: 2.0}
SESSIONS = 5
MOST_OVERHEAD = 1.03
MOST_DIFFERENCE = 1e-5


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(THREADS)
    network = create_backbone(ARCH, image_size_hw=SIZE_HW)
    model = Student(ARCH, network, SIZE_HW, 751, 512, True, HeadSettings()).embedding_model()
    with tempfile.TemporaryDirectory() as folder:
        files = (
            write_onnx(model, Path(folder) / "ours.onnx"),
            export_by_hand(Path(folder) / "bare.onnx"),
        )
        # Opened alternately, so that neither file gets the better memory addresses.
        opened = [open_session(file, threads=THREADS) for _ in range(SESSIONS) for file in files]
    ours, bare = opened[::2], opened[1::2]
    rows: list[Row] = []
    for batch, least in LEAST_SPEEDUP.items():
        feed = random_inputs(ours[0], batch)
        eager = torch.inference_mode()(partial(model.network, torch.from_numpy(feed["images"])))
        exported = [partial(session.run, None, feed) for session in ours]
        feed = random_inputs(bare[0], batch)
        by_hand = [partial(session.run, None, feed) for session in bare]
        name = f"exported {ARCH}, batch {batch}"
        ms, baseline = medians(exported[:1], [eager], rounds=100)
        rows.append(speedup(f"{name}, against PyTorch eager", ms, baseline, "ms", least))
        ms, baseline = medians(exported, by_hand, rounds=200)
        rows.append(overhead(f"{name}, against its backbone", ms, baseline, "ms", MOST_OVERHEAD))
    moved = batch_difference(ours[0])
    name = f"exported {ARCH}, unit vectors in batches of 1 to 64 differ by"
    rows.append(bound(name, moved, "in a value", MOST_DIFFERENCE))
    report(f"{ARCH} at {SIZE_HW[0]}×{SIZE_HW[1]}", rows)


def export_by_hand(path: Path) -> Path:
    """The bare backbone, exported with plain torch.onnx."""
    network = create_backbone(ARCH, image_size_hw=SIZE_HW).eval()
    example = torch.zeros(2, 3, *SIZE_HW)
    torch.onnx.export(network, (example,), path, dynamic_shapes=({0: "batch"},), verbose=False)
    return path


def medians(
    ours: Sequence[Callable[[], object]], baseline: Sequence[Callable[[], object]], rounds: int
) -> tuple[float, float]:
    """Median milliseconds over all runs of each session; runs are interleaved."""
    times = time_interleaved([*ours, *baseline], max_repeats=rounds, max_seconds=90)
    of_each = times[: len(ours)], times[len(ours) :]
    first, second = (statistics.median(itertools.chain(*several)) for several in of_each)
    return first, second


def batch_difference(session: ort.InferenceSession) -> float:
    """Largest change of a crop's unit vector between batch sizes."""
    (images,) = random_inputs(session, 64).values()

    def unit(count: int) -> np.ndarray:
        (features,) = session.run(None, {"images": images[:count]})
        return features / np.linalg.norm(features, axis=1, keepdims=True)

    whole = unit(64)
    return max(float(abs(unit(count) - whole[:count]).max()) for count in range(1, 65))


if __name__ == "__main__":
    main()

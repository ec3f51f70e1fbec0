"""The exported student against PyTorch eager and the bare backbone: `make bench`, or

    python benchmarks/exported_latency.py

MobileNetV2 ×0.25 at 256×128 on two threads, batch 1 and 32, all turn about in one run. The student
is exported by us, with neck, text projection and fusion head built around it as in training; the
bare backbone is made by itself and exported with three lines. Then one file takes every batch from
1 to 64. Random weights: latency does not depend on them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch

from export.bench import Way, time_ways
from export.graph import write_onnx
from export.latency import random_feed
from export.session import open_session
from pivl_distill.config import HeadSettings
from pivl_distill.console import table
from students.archs import create_backbone
from students.student import Student

ARCH, SIZE_HW, THREADS, ROUNDS = "mobilenetv2_025", (256, 128), 2, 150
LEAST_SPEEDUP = {1: 4.0, 32: 2.0}
MOST_OVERHEAD = 1.03


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(THREADS)
    network = create_backbone(ARCH, image_size_hw=SIZE_HW)
    model = Student(ARCH, network, SIZE_HW, 751, 512, True, HeadSettings()).embedding_model()
    with tempfile.TemporaryDirectory() as folder:
        ours = open_session(write_onnx(model, Path(folder) / "ours.onnx"), threads=THREADS)
        bare = open_session(export_by_hand(Path(folder) / "bare.onnx"), threads=THREADS)
    rows = []
    for batch in LEAST_SPEEDUP:
        feed = random_feed(ours, batch)
        eager = torch.inference_mode()(partial(model.network, torch.from_numpy(feed["images"])))
        runs: dict[str, Callable[[], object]] = {
            "exported": partial(ours.run, None, feed),
            "bare, by hand": partial(bare.run, None, feed),
            "PyTorch eager": eager,
        }
        ways = [Way(name, "cpu", THREADS, batch, run) for name, run in runs.items()]
        ms = {t.name: t.p50_ms for t in time_ways(ways, max_rounds=ROUNDS, max_seconds=60)}
        rows += [
            (f"batch {batch}, {name}", f"{value:.2f} ms", "", "") for name, value in ms.items()
        ]
        speedup = ms["PyTorch eager"] / ms["exported"]
        rows.append(judged("  eager ÷ exported", speedup, LEAST_SPEEDUP[batch], at_least=True))
        overhead = ms["exported"] / ms["bare, by hand"]
        rows.append(judged("  exported ÷ bare", overhead, MOST_OVERHEAD, at_least=False))
    rows.append(
        ("batches 1 to 64, largest difference", f"{batch_difference(ours):.1e}", "1e-5", "")
    )
    table(f"{ARCH} at 256×128, {THREADS} threads", ("", "", "target", "met"), rows)


def export_by_hand(path: Path) -> Path:
    """The bare backbone as anyone would export it."""
    network = create_backbone(ARCH, image_size_hw=SIZE_HW).eval()
    example = torch.zeros(2, 3, *SIZE_HW)
    torch.onnx.export(network, (example,), path, dynamic_shapes=({0: "batch"},), verbose=False)
    return path


def batch_difference(session: ort.InferenceSession) -> float:
    """How far a crop's unit vector moves with the size of the batch that it is in, at most."""
    (images,) = random_feed(session, 64).values()

    def unit(count: int) -> np.ndarray:
        (features,) = session.run(None, {"images": images[:count]})
        return features / np.linalg.norm(features, axis=1, keepdims=True)

    whole = unit(64)
    return max(float(abs(unit(count) - whole[:count]).max()) for count in range(1, 65))


def judged(name: str, ratio: float, target: float, *, at_least: bool) -> tuple[str, ...]:
    """A ratio with its target and whether it is met."""
    met = ratio >= target if at_least else ratio <= target
    return name, f"{ratio:.2f}×", f"{'≥' if at_least else '≤'} {target:g}×", "yes" if met else "NO"


if __name__ == "__main__":
    main()

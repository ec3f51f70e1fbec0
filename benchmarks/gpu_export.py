"""Exported students and teachers on an NVIDIA GPU: `python benchmarks/gpu_export.py`.

Each model in fp32, fp16 and int8 as an engine of every installed TensorRT library, next to ONNX
Runtime on CUDA and PyTorch eager, at batch 1 and 32. The runs of one model are interleaved; times
include copying images to the GPU and features back. The cosine is the minimum against PyTorch's
features of the same images. The script ends within ten minutes: builds and timings that would start
too late are skipped and named. A build cannot be interrupted, so it starts only if time is left for
a whole one.

Needs a GPU; `pip install 'pivl-distill[trt]'` for TensorRT (`[rtx]` on GeForce and RTX cards).
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from engine_models import STUDENTS, TEACHERS, make_model, write_graphs

from export.engines.builder import build_engine
from export.engines.engine_info import BatchProfile, Gpu
from export.engines.library import LIBRARY_TITLES, load_tensorrt
from export.engines.runner import EngineRunner
from pivl_distill.console import err, table
from pivl_distill.errors import PivlError
from pivl_distill.models.embedding import EmbeddingModel
from pivl_distill.runtime.onnx_session import open_session
from pivl_distill.storage.files import write_json

BATCHES, ROUNDS, WARMUP = (1, 32), 30, 5
PROFILE = BatchProfile.parse("1,32,64")
TIME_LIMIT_S = 600
FOR_A_BUILD_S, FOR_A_BATCH_S = 150, 20
"""Seconds reserved for building an engine, and for timing a batch; with less left, skip it."""

Forward = Callable[[torch.Tensor], np.ndarray]
"""Images float32 [B, 3, H, W] on the CPU → features float32 [B, F] on the CPU."""


@dataclass(frozen=True)
class Way:
    """One backend of a model, and the seconds it took to create."""

    name: str
    precision: str
    forward: Forward
    megabytes: float
    build_seconds: float = 0.0


@dataclass(frozen=True)
class Row:
    """Median milliseconds of one backend at one batch size, next to PyTorch eager."""

    model: str
    way: str
    precision: str
    batch: int
    ms: float
    times_eager: float
    least_cosine: float
    megabytes: float
    build_seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", action="append", choices=[*STUDENTS, *TEACHERS])
    parser.add_argument("--json", type=Path, default=Path("gpu_export.json"))
    options = parser.parse_args()
    gpu = Gpu.current()
    if gpu is None:
        raise SystemExit("torch finds no NVIDIA GPU here; this benchmark needs one.")
    ort.preload_dlls()
    clock, rows = Clock(time.monotonic() + TIME_LIMIT_S), []
    for name in options.model or (*STUDENTS, *TEACHERS):
        if not clock.allows(FOR_A_BUILD_S, f"{name}; run it with --model {name}"):
            continue
        rows += measure(name, gpu, clock)
        write_json(options.json, {"gpu": gpu.model_dump(), "rows": [asdict(row) for row in rows]})
    columns = ("model", "way", "precision", "batch", "ms", "× eager", "cosine", "MB", "build s")
    table(f"On {gpu.name}", columns, [_cells(row) for row in rows])


@dataclass(frozen=True)
class Clock:
    """The deadline of the script, on `time.monotonic`."""

    end_s: float

    def allows(self, seconds: float, what: str) -> bool:
        """Whether enough time is left; print what is skipped if not."""
        if time.monotonic() + seconds <= self.end_s:
            return True
        err.print(f"Skipped, because the ten minutes are nearly over: {what}.")
        return False


def measure(name: str, gpu: Gpu, clock: Clock) -> Iterator[Row]:
    """All backends of one model at all batch sizes."""
    model = make_model(name)
    with tempfile.TemporaryDirectory() as folder:
        ways = [eager(model), *exported(model, Path(folder), gpu, clock)]
        for batch in BATCHES:
            if not clock.allows(FOR_A_BATCH_S, f"{name}, batch {batch}"):
                continue
            shape = (batch, 3, *model.size_hw)
            images = torch.randn(shape, generator=torch.Generator().manual_seed(batch))
            reference = ways[0].forward(images)
            times = interleaved(ways, images)
            for way, ms in zip(ways, times, strict=True):
                cosine = least_cosine(reference, way.forward(images))
                yield Row(
                    name,
                    way.name,
                    way.precision,
                    batch,
                    ms,
                    times[0] / ms,
                    cosine,
                    way.megabytes,
                    way.build_seconds,
                )


def eager(model: EmbeddingModel) -> Way:
    """The baseline: the network itself, on the GPU."""
    network = model.network.cuda()

    @torch.inference_mode()
    def forward(images: torch.Tensor) -> np.ndarray:
        return network(images.cuda()).cpu().numpy()

    return Way("PyTorch eager", "fp32", forward, 0.0)


def exported(model: EmbeddingModel, folder: Path, gpu: Gpu, clock: Clock) -> Iterator[Way]:
    """Sessions and engines of each precision; failures are printed and skipped."""
    for precision, onnx_path in write_graphs(model, folder):
        megabytes = onnx_path.stat().st_size / 1e6
        if precision != "int8":  # ONNX Runtime does not run TensorRT's form of INT8
            yield Way("ONNX Runtime CUDA", precision, on_cuda(onnx_path), megabytes)
        for library, title in LIBRARY_TITLES.items():
            what = f"{model.name} {precision}, {title}"
            if not gpu.supports(library):
                err.print(f"{what}: not for {gpu.name}.")
                continue
            if not clock.allows(FOR_A_BUILD_S, what):
                continue
            try:
                load_tensorrt(library)
                path, info = build_engine(onnx_path, library, PROFILE)
                run = EngineRunner(path)
            except PivlError as error:
                err.print(f"{what}: {error}")
                continue
            yield Way(
                title,
                precision,
                lambda images, run=run: run(images).cpu().numpy(),
                info.engine_bytes / 1e6,
                info.build_seconds,
            )


def on_cuda(onnx_path: Path) -> Forward:
    """ONNX Runtime on the GPU; raise instead of falling back to the CPU."""
    session = open_session(onnx_path, providers=("CUDAExecutionProvider", "CPUExecutionProvider"))
    return lambda images: session.run(None, {"images": images.numpy()})[0]


def interleaved(ways: list[Way], images: torch.Tensor) -> list[float]:
    """Median milliseconds of each backend; every round runs all of them."""
    times: list[list[float]] = [[] for _ in ways]
    for _ in range(WARMUP + ROUNDS):
        for way, taken in zip(ways, times, strict=True):
            start = time.perf_counter()
            way.forward(images)
            taken.append(1000 * (time.perf_counter() - start))
    return [statistics.median(taken[WARMUP:]) for taken in times]


def least_cosine(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The minimum cosine between features [B, F] of the same images."""
    lengths = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    return float(((ours * theirs).sum(axis=1) / lengths).min())


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row.model,
        row.way,
        row.precision,
        str(row.batch),
        f"{row.ms:.2f}",
        f"{row.times_eager:.1f}",
        f"{row.least_cosine:.5f}",
        f"{row.megabytes:.1f}",
        f"{row.build_seconds:.0f}",
    )


if __name__ == "__main__":
    main()

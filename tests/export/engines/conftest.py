"""A fake TensorRT that needs no GPU, and graphs in the precisions of an export."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from export.calibration import measure_ranges
from export.fp16 import write_fp16
from export.int8 import INT8_FILES, Int8Target, write_int8
from export.source import input_spec
from fake_tensorrt import FakeTensorRT
from pivl_distill.models.embedding import EmbeddingModel
from pivl_distill.storage.filenames import FP16_FILE, FP32_FILE


@pytest.fixture(scope="session")
def in_precision(training) -> Callable[[tuple[EmbeddingModel, Path], str, Path], Path]:
    """Return a function from (model, ONNX file), precision and folder to the converted file.

    The precision is one of an export, or "int8 for CPUs".
    """

    def convert(source: tuple[EmbeddingModel, Path], precision: str, folder: Path) -> Path:
        model, onnx_path = source
        if precision == "fp32":
            return Path(shutil.copy(onnx_path, folder / FP32_FILE))
        if precision == "fp16":
            return write_fp16(onnx_path, folder / FP16_FILE)
        form: Int8Target = "cpu" if precision == "int8 for CPUs" else "tensorrt"
        ranges = measure_ranges(onnx_path, input_spec(model), training)
        return write_int8(onnx_path, folder / INT8_FILES[form], form, ranges)

    return convert


@pytest.fixture
def fake_tensorrt(monkeypatch: pytest.MonkeyPatch) -> FakeTensorRT:
    """Replace both libraries by the fake one, on a machine with a driver."""
    trt = FakeTensorRT()
    for module in ("export.engines.builder", "export.engines.runner"):
        monkeypatch.setattr(f"{module}.load_tensorrt", lambda library: trt)
    return trt

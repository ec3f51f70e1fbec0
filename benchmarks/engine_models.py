"""The networks and graphs of the engine benchmarks: two students and two CLIP teachers.

Weights and calibration images are random: what is measured here — bytes, seconds, and how far an
engine's features are from PyTorch's — does not need trained ones. How much INT8 costs a trained
network is what `pivl-distill export` measures.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
from onnxruntime.transformers.float16 import convert_float_to_float16

from export.engines.description import Precision
from export.graph import write_onnx
from pivl_distill.embedding import EmbeddingModel
from students.archs import create_backbone
from students.student import IMAGENET_MEAN, IMAGENET_STD
from teachers.clip import load_clip
from teachers.teacher import bare_teacher

STUDENTS, TEACHERS = ("mobilenetv2_025", "vit_tiny_patch16_224"), ("RN50", "ViT-B-16")
SIZE_HW = (256, 128)


def make_model(name: str) -> EmbeddingModel:
    """The bare network of a student or a teacher, random but always the same."""
    torch.manual_seed(0)
    if name in TEACHERS:
        return bare_teacher(load_clip(name, "none", SIZE_HW))
    network = create_backbone(name, image_size_hw=SIZE_HW).eval()
    return EmbeddingModel(name, network, SIZE_HW, IMAGENET_MEAN, IMAGENET_STD)


def write_graphs(model: EmbeddingModel, folder: Path) -> Iterator[tuple[Precision, Path]]:
    """The model as ONNX in each precision, in the forms that TensorRT reads."""
    fp32 = write_onnx(model, folder / "model.onnx")
    yield "fp32", fp32
    fp16 = folder / "model.fp16.onnx"
    onnx.save(convert_float_to_float16(onnx.load(fp32), keep_io_types=True), fp16)
    yield "fp16", fp16
    int8 = folder / "model.int8.trt.onnx"
    logging.getLogger().setLevel(logging.ERROR)  # advice that does not apply to these graphs
    quantize_static(
        fp32,
        int8,
        _Noise(model.size_hw),
        per_channel=True,
        activation_type=QuantType.QInt8,
        extra_options={"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False},
    )
    yield "int8", int8


class _Noise(CalibrationDataReader):
    """One batch of random images."""

    def __init__(self, size_hw: tuple[int, int]) -> None:
        images = np.random.default_rng(0).standard_normal((4, 3, *size_hw), dtype=np.float32)
        self._batches = iter([{"images": images}])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._batches, None)

"""The networks and graphs of the engine benchmarks: two students and two CLIP teachers.

Weights are random, and INT8 is calibrated on a few synthetic people. The measured quantities
(bytes, seconds, and the distance of an engine's features from PyTorch's) do not depend on training.
`pivl-distill export` measures the accuracy loss of INT8 on a trained network.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from export.accuracy import ExportPrecision
from export.calibration import calibration_crops, measure_ranges
from export.fp16 import write_fp16
from export.int8 import INT8_FILES, write_int8
from export.onnx_export import write_onnx
from export.source import input_spec
from pivl_distill.data.datasets import load_dataset
from pivl_distill.models.embedding import EmbeddingModel
from pivl_distill.storage.filenames import FP16_FILE, FP32_FILE
from students.backbones import create_backbone
from students.student import IMAGENET_MEAN, IMAGENET_STD
from teachers.clip_loading import load_clip
from teachers.teacher import clip_embedding_model

STUDENTS, TEACHERS = ("mobilenetv2_025", "vit_tiny_patch16_224"), ("RN50", "ViT-B-16")
SIZE_HW, CALIBRATION_CROPS = (256, 128), 16


def make_model(name: str) -> EmbeddingModel:
    """The bare network of a student or a teacher, with fixed random weights."""
    torch.manual_seed(0)
    if name in TEACHERS:
        return clip_embedding_model(load_clip(name, "none", SIZE_HW))
    network = create_backbone(name, image_size_hw=SIZE_HW).eval()
    return EmbeddingModel(name, network, SIZE_HW, IMAGENET_MEAN, IMAGENET_STD)


def write_graphs(model: EmbeddingModel, folder: Path) -> Iterator[tuple[ExportPrecision, Path]]:
    """The model as ONNX in each precision, in the forms that TensorRT reads."""
    fp32 = write_onnx(model, folder / FP32_FILE)
    yield "fp32", fp32
    yield "fp16", write_fp16(fp32, folder / FP16_FILE)
    people = load_dataset("synthetic:tiny").train[:CALIBRATION_CROPS]
    ranges = measure_ranges(fp32, input_spec(model), calibration_crops(people, model.size_hw))
    yield "int8", write_int8(fp32, folder / INT8_FILES["tensorrt"], "tensorrt", ranges)

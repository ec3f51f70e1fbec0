"""ONNX networks with a known output, and crops for them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

from pivl_distill.data.records import Record, ReIDDataset
from pivl_distill.data.vocabulary import COARSE6
from pivl_distill.parsing.settings import OnnxSettings

COLOURS = ((0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255))
"""Colours of classes 0 to 3 of `colour_net`; further classes never occur."""


@pytest.fixture
def colour_net(tmp_path: Path) -> Callable[..., Path]:
    """`colour_net(...)` writes an ONNX file that classifies four RGB colours, input in 0..1."""

    def make(
        size_hw: tuple[int, int] = (16, 8),
        form: str = "logits_nchw",
        batch: int | str = "batch",
        classes: int = len(COARSE6),
        scale: float = 10.0,
        dtype: int = TensorProto.FLOAT,
        extra_output: bool = False,
        last_bias: float = -9.0,
        overflow: float = 0.0,
    ) -> Path:
        weights = np.zeros((classes, 3, 1, 1), np.float32)
        weights[1:4, :, 0, 0] = np.eye(3)
        bias = scale * np.array([0.5, 0, 0, 0] + [-9.0] * (classes - 5) + [last_bias], np.float32)
        inner = TensorProto.FLOAT if dtype == TensorProto.UINT8 else dtype
        kind = helper.tensor_dtype_to_np_dtype(inner)
        constants = {"w": weights * scale, "b": bias + np.float32(overflow)}
        nodes = [
            helper.make_node("Cast", ["images"], ["cast"], to=inner),
            helper.make_node("Conv", ["cast", "w", "b"], ["scores"]),
        ]
        result = "scores"
        if form == "logits_nhwc":
            nodes.append(helper.make_node("Transpose", ["scores"], ["nhwc"], perm=[0, 2, 3, 1]))
            result = "nhwc"
        elif form == "labels":
            nodes.append(helper.make_node("ArgMax", ["scores"], ["ids"], axis=1, keepdims=0))
            result = "ids"
        names = [result, "scores"] if extra_output else [result]
        outputs = [
            helper.make_tensor_value_info(name, TensorProto.INT64 if name == "ids" else inner, None)
            for name in names
        ]
        graph = helper.make_graph(
            nodes,
            "colours",
            [helper.make_tensor_value_info("images", dtype, [batch, 3, *size_hw])],
            outputs,
            [onnx.numpy_helper.from_array(v.astype(kind), n) for n, v in constants.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        path = tmp_path / "colours.onnx"
        onnx.save(model, str(path))
        return path

    return make


@pytest.fixture
def colour_settings() -> Callable[..., OnnxSettings]:
    """`colour_settings(file, ...)` are the settings of `colour_net(...)`."""
    plain = {
        "kind": "onnx",
        "vocabulary": "coarse6",
        "size_hw": (16, 8),
        "mean": (0.0, 0.0, 0.0),
        "std": (1.0, 1.0, 1.0),
        "device": "cpu",
    }
    return lambda source, **changes: OnnxSettings(**{**plain, "source": source, **changes})


@pytest.fixture
def coloured() -> Callable[[np.ndarray], np.ndarray]:
    """`coloured(labels)` is the image, uint8 [H, W, 3], that `colour_net` parses as `labels`."""
    return lambda labels: np.array(COLOURS, np.uint8)[labels]


@pytest.fixture
def colour_data(tmp_path: Path, coloured) -> ReIDDataset:
    """Six training images of four-colour blocks, in two folders and of different sizes."""
    rng = np.random.default_rng(0)
    root = tmp_path / "data"
    records = []
    for number in range(6):
        path = root / "train" / str(number % 2) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        blocks = rng.integers(0, 4, (4, 2)).repeat(4 + number, axis=0).repeat(4 + number, axis=1)
        Image.fromarray(coloured(blocks)).save(path)
        records.append(Record(path, number % 2, 0))
    return ReIDDataset("planted", root, tuple(records), (), ())

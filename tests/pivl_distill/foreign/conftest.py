"""Tiny networks whose embedding is the mean colour of a crop, as ONNX files and OpenVINO IRs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

SIZE_HW = (16, 8)


@pytest.fixture
def mean_net(tmp_path: Path) -> Callable[..., Path]:
    """`mean_net(...)` writes an ONNX file: the mean of each channel, in the order of the input."""

    def make(
        batch: int | str = "batch",
        size_hw: tuple[int | str, int | str] = SIZE_HW,
        layout: str = "nchw",
        dtype: int = TensorProto.FLOAT,
        channels: int | str = 3,
        keep_axes: bool = False,
        outputs: tuple[str, ...] = ("features",),
        name: str = "mean.onnx",
    ) -> Path:
        shape = [batch, channels, *size_hw] if layout == "nchw" else [batch, *size_hw, channels]
        axes = [2, 3] if layout == "nchw" else [1, 2]
        nodes = [helper.make_node("Cast", ["crops"], ["cast"], to=TensorProto.FLOAT)]
        for output in outputs:
            source = "cast" if output == "map" else "mean"
            nodes.append(helper.make_node("Identity", [source], [output]))
        nodes.insert(
            1, helper.make_node("ReduceMean", ["cast"], ["mean"], axes=axes, keepdims=keep_axes)
        )
        graph = helper.make_graph(
            nodes,
            "mean",
            [helper.make_tensor_value_info("crops", dtype, shape)],
            [helper.make_tensor_value_info(o, TensorProto.FLOAT, None) for o in outputs],
        )
        path = tmp_path / name
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        onnx.save(model, str(path))
        return path

    return make


@pytest.fixture
def as_openvino() -> Callable[[Path], Path]:
    """`as_openvino(onnx_file)` writes the same network as an OpenVINO IR beside it."""
    openvino = pytest.importorskip("openvino", reason="needs openvino, of the extra [openvino]")

    def convert(path: Path) -> Path:
        target = path.with_suffix(".xml")
        openvino.save_model(openvino.convert_model(path), target, compress_to_fp16=False)
        return target

    return convert

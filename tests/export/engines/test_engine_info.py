"""File names of engines, batch profiles, and sidecars that must match their engine."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from onnx import TensorProto, helper

from export.engines.engine_info import (
    BatchProfile,
    EngineInfo,
    Gpu,
    TensorInfo,
    engine_path,
    graph_precision,
    read_sidecar,
    write_sidecar,
)
from pivl_distill.errors import PivlError
from pivl_distill.storage.files import sha256


def test_profile_is_parsed_from_three_batch_sizes():
    assert BatchProfile.parse("1,8,64").batches == (1, 8, 64)
    assert BatchProfile.parse("4,4,4").batches == (4, 4, 4)


@pytest.mark.parametrize("text", ["8", "1,8", "1,8,64,65", "one,8,64", "1.5,8,64", "-1,8,64", ""])
def test_profile_text_must_be_three_integers(text):
    with pytest.raises(PivlError, match=f"such as 1,8,64; got '{text}'"):
        BatchProfile.parse(text)


@pytest.mark.parametrize("text", ["0,8,64", "8,4,64", "1,65,64"])
def test_profile_with_decreasing_batch_sizes_is_rejected(text):
    with pytest.raises(PivlError, match="min ≤ opt ≤ max"):
        BatchProfile.parse(text)


@pytest.mark.parametrize(
    ("onnx_name", "precision", "library", "name"),
    [
        ("model.onnx", "fp32", "tensorrt", "model.fp32.engine"),
        ("model.onnx", "fp32", "tensorrt-rtx", "model.fp32.rtx.engine"),
        ("model.fp16.onnx", "fp16", "tensorrt", "model.fp16.engine"),
        ("model.int8.trt.onnx", "int8", "tensorrt-rtx", "model.int8.rtx.engine"),
        ("person.v2.onnx", "fp32", "tensorrt", "person.v2.fp32.engine"),
    ],
)
def test_engine_file_name_has_precision_and_library(onnx_name, precision, library, name):
    assert engine_path(Path("out") / onnx_name, precision, library) == Path("out") / name


def graph(*ops: str, weights: int) -> onnx.GraphProto:
    nodes = [helper.make_node(op, ["x", "w"], ["y"]) for op in ops]
    weight = helper.make_tensor("w", weights, [1], [1.0])
    return helper.make_graph(nodes, "g", [], [], [weight])


def test_graph_precision_follows_weights_and_quantisation_nodes():
    assert graph_precision(graph("Conv", weights=TensorProto.FLOAT)) == "fp32"
    assert graph_precision(graph("Cast", "Conv", weights=TensorProto.FLOAT16)) == "fp16"
    assert graph_precision(graph("QuantizeLinear", "Conv", weights=TensorProto.FLOAT)) == "int8"
    assert graph_precision(graph("QuantizeLinear", "Conv", weights=TensorProto.FLOAT16)) == "int8"


def test_there_is_no_current_gpu_without_cuda(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert Gpu.current() is None


def test_current_gpu_is_the_one_that_torch_reports(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA L4")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 9))
    assert Gpu.current() == Gpu(name="NVIDIA L4", compute_capability="8.9")


@pytest.fixture
def engine(tmp_path) -> Path:
    """Write an engine file with its sidecar."""
    path = tmp_path / "model.fp16.engine"
    path.write_bytes(b"a plan")
    info = EngineInfo(
        library="tensorrt",
        library_version="11.4.0",
        precision="fp16",
        flags=("TF32",),
        profile=BatchProfile.parse("1,8,64"),
        workspace_bytes=1 << 30,
        inputs=(TensorInfo(name="images", dtype="FLOAT", shape=(-1, 3, 64, 32)),),
        output=TensorInfo(name="features", dtype="FLOAT", shape=(-1, 16)),
        onnx_file="model.fp16.onnx",
        onnx_sha256="0" * 64,
        engine_sha256=sha256(path),
        engine_bytes=6,
        gpu=Gpu(name="NVIDIA L4", compute_capability="8.9"),
        build_seconds=12.5,
        metadata={"name": "mobilenetv2_025"},
    )
    write_sidecar(path, info)
    return path


def test_sidecar_round_trip(engine):
    info = read_sidecar(engine)
    assert info.profile.batches == (1, 8, 64)
    assert info.gpu == Gpu(name="NVIDIA L4", compute_capability="8.9")
    write_sidecar(engine, info)
    assert read_sidecar(engine) == info


@pytest.mark.parametrize("missing", ["model.fp16.engine", "model.fp16.engine.json"])
def test_missing_engine_or_sidecar_raises(engine, missing):
    engine.with_name(missing).unlink()
    with pytest.raises(PivlError, match=rf"There is no '.*{missing}'"):
        read_sidecar(engine)


@pytest.mark.parametrize("damage", [b"", b"a pla", b"a plam", b"a plan."])
def test_engine_that_differs_from_its_sidecar_is_rejected(engine, damage):
    engine.write_bytes(damage)
    with pytest.raises(PivlError, match="not the engine that its"):
        read_sidecar(engine)


@pytest.mark.parametrize("text", ["", "{}", '{"format": 2}'])
def test_invalid_sidecar_is_rejected(engine, text):
    engine.with_name("model.fp16.engine.json").write_text(text)
    with pytest.raises(PivlError, match="describes no engine of this version"):
        read_sidecar(engine)


@pytest.mark.parametrize(
    ("capability", "rtx"),
    [
        *((known, True) for known in ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")),
        *((other, False) for other in ("7.0", "8.7", "9.0", "10.0")),
    ],
)
def test_tensorrt_rtx_supports_some_gpus_and_tensorrt_all(capability, rtx):
    gpu = Gpu(name="a GPU", compute_capability=capability)
    assert gpu.supports("tensorrt-rtx") == rtx
    assert gpu.supports("tensorrt")

"""Engines: without TensorRT a clear way out; with the TensorRT-RTX packages a real build."""

from __future__ import annotations

import importlib.util
import json
from types import SimpleNamespace

import pytest

from export.manifest import sha256
from export.trt import ENGINE_NAMES, build_engine, find_tensorrt
from pivl_distill.errors import PivlError

RTX_PACKAGES = ("tensorrt_rtx_bindings", "onnxruntime_ep_nv_tensorrt_rtx")
needs_rtx = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in RTX_PACKAGES),
    reason="the TensorRT-RTX packages are not installed (pip install 'pivl-distill[rtx]')",
)


def test_without_tensorrt_the_onnx_file_is_named_and_the_way_out(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(PivlError) as error:
        find_tensorrt(tmp_path / "model.onnx")
    message = str(error.value)
    assert f"kept at {tmp_path / 'model.onnx'}" in message
    assert "pip install 'pivl-distill[trt]'" in message
    assert "pip install 'pivl-distill[rtx]'" in message


class FakeTensorRT:
    """Records what the builder is asked for; `parses` and `plan` decide what comes of it."""

    __name__, __version__ = "tensorrt", "11.0"
    Logger = type("Logger", (), {"ERROR": 1, "__init__": lambda self, level: None})
    MemoryPoolType = SimpleNamespace(WORKSPACE="workspace")

    def __init__(self, *, strongly_typed: bool, parses: bool = True, plan: bytes | None = b"plan"):
        flags = {"STRONGLY_TYPED": 3} if strongly_typed else {}
        self.NetworkDefinitionCreationFlag = SimpleNamespace(**flags)
        self.parses, self.plan = parses, plan
        self.calls: dict[str, object] = {}
        self.num_errors = 2

    def Builder(self, logger):  # noqa: N802
        profile = SimpleNamespace(set_shape=lambda *a: self.calls.update(profile=a))
        config = SimpleNamespace(
            set_memory_pool_limit=lambda *a: self.calls.update(workspace=a),
            add_optimization_profile=lambda p: self.calls.update(added=p is profile),
        )
        images = SimpleNamespace(name="images", shape=(-1, 3, 64, 32))

        def create_network(flags):
            self.calls["flags"] = flags
            return SimpleNamespace(num_inputs=1, get_input=lambda number: images)

        return SimpleNamespace(
            create_network=create_network,
            create_builder_config=lambda: config,
            create_optimization_profile=lambda: profile,
            build_serialized_network=lambda network, config: self.plan,
        )

    def OnnxParser(self, network, logger):  # noqa: N802
        errors = [SimpleNamespace(desc=lambda: "no Foo"), SimpleNamespace(desc=lambda: "no Bar")]
        return SimpleNamespace(
            parse=lambda data: self.parses,
            num_errors=len(errors),
            get_error=lambda number: errors[number],
        )


@pytest.mark.parametrize(("strongly_typed", "flags"), [(True, 1 << 3), (False, 0)])
def test_flags_profile_and_workspace(mobilenet, tmp_path, strongly_typed, flags):
    _, onnx_path = mobilenet
    trt = FakeTensorRT(strongly_typed=strongly_typed)
    engine_path = tmp_path / ENGINE_NAMES["tensorrt"]
    info = build_engine(onnx_path, engine_path, trt, max_batch=16, workspace_bytes=1024)
    assert trt.calls == {
        "flags": flags,
        "workspace": ("workspace", 1024),
        "profile": ("images", (1, 3, 64, 32), (8, 3, 64, 32), (16, 3, 64, 32)),
        "added": True,
    }
    assert engine_path.read_bytes() == b"plan"
    sidecar = json.loads((tmp_path / "model.engine.json").read_text())
    assert sidecar["onnx_sha256"] == info.onnx_sha256 == sha256(onnx_path)
    assert sidecar["engine_sha256"] == sha256(engine_path)
    assert (sidecar["min_batch"], sidecar["opt_batch"], sidecar["max_batch"]) == (1, 8, 16)
    assert sidecar["metadata"]["name"] == "mobilenetv2_025"


def test_parser_errors_are_passed_on(mobilenet, tmp_path):
    trt = FakeTensorRT(strongly_typed=True, parses=False)
    with pytest.raises(PivlError, match="no Foo; no Bar"):
        build_engine(mobilenet[1], tmp_path / "model.engine", trt)


def test_a_failed_build_writes_nothing(mobilenet, tmp_path):
    trt = FakeTensorRT(strongly_typed=True, plan=None)
    with pytest.raises(PivlError, match="could not build an engine"):
        build_engine(mobilenet[1], tmp_path / "model.engine", trt)
    assert not list(tmp_path.iterdir())


@needs_rtx
def test_a_real_rtx_engine(mobilenet, tmp_path):
    _, onnx_path = mobilenet
    trt, library = find_tensorrt(onnx_path)
    assert library == "tensorrt-rtx"
    engine_path = tmp_path / ENGINE_NAMES[library]
    info = build_engine(onnx_path, engine_path, trt)
    assert engine_path.name == "model.rtx.engine"
    assert engine_path.stat().st_size > 100_000
    assert info.tensorrt_module == "tensorrt_rtx_bindings"
    assert json.loads((tmp_path / "model.rtx.engine.json").read_text())["opt_batch"] == 8


@needs_rtx
def test_a_broken_graph_gives_the_real_parsers_words(tmp_path):
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"not a graph")
    trt, _ = find_tensorrt(path)
    with pytest.raises(PivlError, match="TensorRT cannot read"):
        build_engine(path, tmp_path / "model.rtx.engine", trt)

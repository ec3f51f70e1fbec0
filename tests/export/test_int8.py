"""INT8 quantises the right layers in both formats and keeps sensitive ones in float32."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, numpy_helper

import export.int8
from export.calibration import measure_ranges
from export.int8 import (
    INT8_FILES,
    quantisable_nodes,
    rank_by_sensitivity,
    write_int8,
    write_int8_within_budget,
)
from export.manifest_schema import Artifact
from export.onnx_export import write_onnx
from export.onnx_inference import run_session
from export.source import input_spec
from pivl_distill.models.embedding import EmbeddingModel
from pivl_distill.runtime.onnx_session import open_session


@pytest.fixture(scope="module")
def ranges(small, small_onnx, training):
    return measure_ranges(small_onnx, input_spec(small), training)


@pytest.fixture
def inputs(small, training) -> list[torch.Tensor]:
    return [small.preprocess(training.crops)]


def operator_counts(path: Path, names: list[str]) -> Counter[str]:
    types = {node.name: node.op_type for node in onnx.load(path).graph.node}
    return Counter(types[name] for name in names)


def dequantised(graph: onnx.GraphProto) -> dict[str, onnx.NodeProto]:
    """Return the node that dequantises each tensor, by the tensor's name."""
    return {n.output[0]: n for n in graph.node if n.op_type == "DequantizeLinear"}


def test_quantised_layers_of_each_architecture(exported, small_onnx):
    def quantised_nodes(path, form="cpu"):
        return operator_counts(path, quantisable_nodes(onnx.load(path).graph, form))

    # All convolutions except the first, the residual addition, and the pooling.
    assert quantised_nodes(small_onnx) == {"Conv": 4, "Add": 1, "ReduceMean": 1}
    assert quantised_nodes(small_onnx, "tensorrt") == {"Conv": 4}
    # Layers after the stem's pooling too: eight residual blocks.
    assert quantised_nodes(exported("resnet18")[1]) == {"Conv": 19, "Add": 8, "ReduceMean": 1}
    # Four linear layers per block; no attention products, residual additions or patch embedding.
    vit = quantised_nodes(exported("vit_tiny_patch16_224")[1])
    assert vit.keys() <= {"MatMul", "Gemm"}
    assert vit.total() == 12 * 4


class Thin(torch.nn.Module):
    """Layers with 8 and with 16 channels, each pooled; a third pooling follows a sigmoid."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = torch.nn.Conv2d(3, 8, 3, 2, 1)
        self.depthwise = torch.nn.Conv2d(8, 8, 3, 1, 1, groups=8)
        self.few = torch.nn.Conv2d(8, 8, 1)
        self.widen = torch.nn.Conv2d(8, 16, 1)
        self.wide = torch.nn.Conv2d(16, 16, 3, 1, 1, groups=16)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        thin = self.depthwise(self.stem(images))
        thin = thin + self.few(thin)
        maps = self.widen(thin)
        maps = maps + self.wide(maps)
        gates = maps.sigmoid().mean((2, 3))
        means = [part.mean((2, 3), keepdim=True).flatten(1) for part in (thin, maps)]
        return torch.cat([*means, gates], dim=1)


@pytest.fixture(scope="module")
def thin(tmp_path_factory) -> tuple[EmbeddingModel, Path]:
    torch.manual_seed(0)
    model = EmbeddingModel("thin", Thin().eval(), (64, 32), (0.5,) * 3, (0.25,) * 3)
    return model, write_onnx(model, tmp_path_factory.mktemp("thin") / "model.onnx")


def test_layers_with_few_channels_stay_in_float32_on_cpus(thin):
    graph = onnx.load(thin[1]).graph
    convolutions = [node.name for node in graph.node if node.op_type == "Conv"]
    assert quantisable_nodes(graph, "tensorrt") == convolutions[1:]
    quantised_nodes = quantisable_nodes(graph, "cpu")
    # The last two convolutions, their sum and its mean; no layer with eight channels.
    assert operator_counts(thin[1], quantised_nodes) == {"Conv": 2, "Add": 1, "ReduceMean": 1}
    assert quantised_nodes[:2] == convolutions[3:]
    producers = {node.output[0]: node.name for node in graph.node}
    (pooled,) = (node for node in graph.node if node.name == quantised_nodes[3])
    assert producers[pooled.input[0]] == quantised_nodes[2]


@pytest.mark.parametrize("network", ["small", "thin"])  # pooling without and with keepdim
def test_global_pooling_has_an_integer_kernel(small, small_onnx, thin, network, training, tmp_path):
    model, fp32 = (small, small_onnx) if network == "small" else thin
    ranges = measure_ranges(fp32, input_spec(model), training)
    path = write_int8(fp32, tmp_path / "int8.onnx", "cpu", ranges)
    onnx.checker.check_model(onnx.load(path), full_check=True)
    fused = ort.SessionOptions()
    fused.optimized_model_filepath = str(tmp_path / "fused.onnx")
    ort.InferenceSession(str(path), fused, providers=["CPUExecutionProvider"])
    kernels = [node.op_type for node in onnx.load(tmp_path / "fused.onnx").graph.node]
    assert kernels.count("QLinearGlobalAveragePool") == 1
    images = model.preprocess(training.crops)
    exact, features = (run_session(open_session(p), images) for p in (fp32, path))
    assert exact.shape == features.shape
    assert (features - exact).norm() / exact.norm() < 0.03
    for count in (1, 3):
        assert run_session(open_session(path), images[:count]).shape == features[:count].shape
    for form in INT8_FILES:
        float_path = tmp_path / "float_pooling.onnx"
        write_int8(fp32, float_path, form, ranges, quantisable_means(fp32))
        assert not any(n.op_type == "GlobalAveragePool" for n in onnx.load(float_path).graph.node)


def quantisable_means(path: Path) -> list[str]:
    return [node.name for node in onnx.load(path).graph.node if node.op_type == "ReduceMean"]


@pytest.mark.parametrize("form", INT8_FILES)
def test_quantisation_format_is_that_of_the_target_runtime(small_onnx, ranges, form, tmp_path):
    path = write_int8(small_onnx, tmp_path / INT8_FILES[form], form, ranges)
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    graph = model.graph
    stored = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
    activations, weights, biases = set(), 0, 0
    for node in graph.node:
        if node.op_type == "QuantizeLinear":
            zero = stored[node.input[2]]
            activations.add(zero.dtype)
            assert zero == 0 or form == "cpu"
        elif node.op_type == "DequantizeLinear" and node.input[0] in stored:
            values, scale, zero = (stored[name] for name in node.input)
            assert not zero.any()
            assert len(scale) == len(values)  # one per output channel
            weights += values.dtype == np.int8
            biases += values.dtype == np.int32
    assert activations == {np.dtype("uint8" if form == "cpu" else "int8")}
    assert (weights, biases) == (4, 4 if form == "cpu" else 0)
    assert {p.key: p.value for p in model.metadata_props}["precision"] == "int8"
    outputs = {
        name for node in graph.node if node.op_type == "QuantizeLinear" for name in node.input
    }
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    if form == "tensorrt":
        # A layer is fused with its activation, so nothing is quantised between them.
        assert not outputs.intersection(n.output[0] for n in convolutions)


def test_weights_are_quantised_per_channel(small_onnx, ranges, tmp_path):
    """By definition, the largest weight of a channel is 127 steps."""
    exact = {i.name: numpy_helper.to_array(i) for i in onnx.load(small_onnx).graph.initializer}
    path = write_int8(small_onnx, tmp_path / "int8.onnx", "tensorrt", ranges)
    graph = onnx.load(path).graph
    stored = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
    checked = 0
    for node in dequantised(graph).values():
        name = node.input[0].removesuffix("_quantized")
        if name in exact:
            weight = exact[name]
            largest = np.abs(weight).max(axis=(1, 2, 3))
            np.testing.assert_allclose(stored[node.input[1]], largest / 127, rtol=1e-5)
            steps = weight / (largest / 127)[:, None, None, None]
            assert np.abs(stored[node.input[0]] - steps).max() <= 0.501
            checked += 1
    assert checked == 4


@pytest.mark.parametrize("form", INT8_FILES)
def test_int8_features_are_close_to_float32(small, small_onnx, ranges, inputs, form, tmp_path):
    path = write_int8(small_onnx, tmp_path / "int8.onnx", form, ranges)
    exact, features = (run_session(open_session(p), *inputs) for p in (small_onnx, path))
    error = (features - exact).norm() / exact.norm()
    assert 1e-5 < error < 0.03
    one = run_session(open_session(path), inputs[0][:1])
    torch.testing.assert_close(one, features[:1], rtol=1e-4, atol=1e-4 * float(exact.abs().max()))


def test_baked_in_preprocessing_stays_in_float32(small, training, tmp_path):
    fp32 = write_onnx(small, tmp_path / "m.onnx", bake_preprocessing=True, normalize=True)
    ranges = measure_ranges(fp32, input_spec(small, True), training)
    path = write_int8(fp32, tmp_path / "int8.onnx", "cpu", ranges)
    crops = torch.from_numpy(training.crops)
    exact, features = (run_session(open_session(p), crops) for p in (fp32, path))
    assert (exact * features).sum(dim=1).min() > 0.999
    producers = {o: node.op_type for node in onnx.load(path).graph.node for o in node.output}
    first = next(node for node in onnx.load(path).graph.node if node.op_type == "Conv")
    assert producers[first.input[0]] == "Div"


def test_float32_nodes_have_float32_weights(small_onnx, ranges, tmp_path):
    graph = onnx.load(small_onnx).graph
    float32_nodes = quantisable_nodes(graph, "cpu")[1:3]
    path = write_int8(small_onnx, tmp_path / "int8.onnx", "cpu", ranges, float32_nodes)
    quantised = onnx.load(path).graph
    floats = {i.name for i in quantised.initializer if i.data_type == TensorProto.FLOAT}
    by_name = {node.name: node for node in quantised.node}
    for name in quantisable_nodes(graph, "cpu"):
        if by_name[name].op_type == "Conv":
            assert (by_name[name].input[1] in floats) == (name in float32_nodes)


def test_layer_with_the_widest_range_is_most_sensitive(small_onnx, ranges, inputs):
    """The range of its input is far too wide, as after a single outlier."""
    graph = onnx.load(small_onnx).graph
    names = quantisable_nodes(graph, "tensorrt")
    nodes = {node.name: node for node in graph.node}
    for widest in (names[0], names[2]):
        widened = ranges | {nodes[widest].input[0]: (-1e3, 1e3)}
        ranked = rank_by_sensitivity(small_onnx, "tensorrt", widened, inputs)
        assert ranked[0] == widest
        assert sorted(ranked) == sorted(names)


class FakeVerifier:
    """Verifies a file if `needed` layers are in float32; records its calls."""

    def __init__(self, needed: int, *, runs: bool = True) -> None:
        self.needed, self.runs, self.calls = needed, runs, []

    def __call__(self, path: Path, float32_nodes=()) -> Artifact:
        self.calls.append((tuple(float32_nodes), path.read_bytes()))
        passed = len(float32_nodes) >= self.needed
        return Artifact.model_construct(
            file=path.name,
            status="verified" if passed else "failed",
            failure=None if passed else "Over budget.",
            parity=SimpleNamespace() if self.runs else None,
            float32_nodes=tuple(float32_nodes),
        )


@pytest.fixture
def search(small_onnx, ranges, monkeypatch, tmp_path):
    """Return a function that runs the search on twenty layers, ranked by their number."""
    onnx_path = tmp_path / "model.onnx"
    onnx_path.write_bytes(b"")

    def write(onnx_path, path, form, ranges, float32_nodes=()):
        path.write_bytes(repr(float32_nodes).encode())
        return path

    monkeypatch.setattr(export.int8, "write_int8", write)
    monkeypatch.setattr(export.int8, "rank_by_sensitivity", lambda *_: [f"n{i}" for i in range(20)])
    return lambda verify: write_int8_within_budget(onnx_path, "cpu", {}, [], verify)


@pytest.mark.parametrize(("needed", "count"), [(0, 0), (1, 1), (3, 4), (8, 8)])
def test_float32_layers_double_until_the_budget_holds(search, needed, count, caplog):
    verify = FakeVerifier(needed)
    artifact = search(verify)
    assert artifact.status == "verified"
    assert artifact.float32_nodes == tuple(f"n{i}" for i in range(count))
    assert (f"with {count} of 20 layers in float32: n0" in caplog.text) == bool(count)


def test_too_many_float32_layers_fail(search):
    verify = FakeVerifier(needed=11)
    artifact = search(verify)
    assert artifact.status == "failed"
    assert artifact.failure == "Over budget. Even with 8 of 20 layers in float32."
    assert [len(nodes) for nodes, _ in verify.calls] == [0, 1, 2, 4, 8]


def test_no_layers_are_searched_for_a_file_that_does_not_run(search):
    verify = FakeVerifier(needed=1, runs=False)
    assert search(verify).status == "failed"
    assert len(verify.calls) == 1

"""An ONNX file of others as an export: every form of input, and what cannot be exported."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.accuracy import AccuracyBudget
from export.cost import graph_cost
from export.exporter import export_model
from export.foreign_source import foreign_source
from export.loading import load_exported, load_forward
from export.manifest_schema import read_manifest
from pivl_distill.config import Preprocessing
from pivl_distill.errors import PivlError
from pivl_distill.foreign import load_foreign
from pivl_distill.models.embedding import embed
from pivl_distill.retrieval.loaded_network import LoadedNetwork
from pivl_distill.runtime import Extractor

SIZE_HW = (64, 32)
RNG = np.random.default_rng(0)


def weight(name: str, *shape: int) -> TensorProto:
    return numpy_helper.from_array(RNG.normal(size=shape).astype(np.float32) / shape[-1], name)


@pytest.fixture
def foreign(tmp_path: Path) -> Callable[..., LoadedNetwork]:
    """`foreign(...)` writes and opens an old-fashioned graph: two convolutions, a norm, a layer."""

    def make(
        layout: str = "nchw",
        dtype: int = TensorProto.FLOAT,
        batch: int | str = "N",
        opset: int = 11,
        tail: tuple[onnx.NodeProto, ...] = (),
        **declared: Any,
    ) -> LoadedNetwork:
        height, width = SIZE_HW
        shape = [batch, 3, height, width] if layout == "nchw" else [batch, height, width, 3]
        four = np.array([4.0], np.float32)
        nodes = [helper.make_node("Cast", ["images"], ["cast"], to=TensorProto.FLOAT)]
        if layout == "nhwc":
            nodes.append(helper.make_node("Transpose", ["cast"], ["first"], perm=[0, 3, 1, 2]))
        else:
            nodes.append(helper.make_node("Identity", ["cast"], ["first"]))
        nodes += [
            helper.make_node("Constant", [], ["four"], value=numpy_helper.from_array(four)),
            helper.make_node("Div", ["first", "four"], ["scaled"]),
            helper.make_node("Conv", ["scaled", "w1"], ["c1"], "conv1", strides=[2, 2]),
            helper.make_node("Relu", ["c1"], ["r1"], "relu1"),
            helper.make_node("Conv", ["r1", "w2"], ["c2"], "conv2", strides=[2, 2]),
            helper.make_node("BatchNormalization", ["c2", "s", "b", "m", "v"], ["n2"], "norm"),
            helper.make_node("Relu", ["n2"], ["r2"], "relu2"),
            helper.make_node("GlobalAveragePool", ["r2"], ["features"], "pool"),
            *tail,
            helper.make_node("Identity", ["r2"], ["map"], "other"),
        ]
        ones = np.ones(24, np.float32)
        weights = [weight("w1", 16, 3, 3, 3), weight("w2", 24, 16, 3, 3)]
        weights += [numpy_helper.from_array(ones * k, n) for k, n in ((1, "s"), (0.1, "b"))]
        weights += [numpy_helper.from_array(ones * k, n) for k, n in ((0, "m"), (1, "v"))]
        inputs = [helper.make_tensor_value_info("images", dtype, shape)]
        inputs += [helper.make_tensor_value_info(w.name, w.data_type, w.dims) for w in weights]
        output = "tail" if tail else "features"
        outputs = [
            helper.make_tensor_value_info(o, TensorProto.FLOAT, None) for o in (output, "map")
        ]
        graph = helper.make_graph(nodes, "old", inputs, outputs, weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
        model.ir_version = 4
        path = tmp_path / "old.onnx"
        onnx.save(model, str(path))
        settings = {"colour": "rgb", "range": 1, "output": output} | declared
        return load_foreign(path, Preprocessing.model_validate(settings))

    return make


PIXELS = {"range": 255}


@pytest.mark.parametrize(
    "form",
    [
        {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)},
        {"colour": "bgr", "mean": (0.5, 0.4, 0.3)},
        {"layout": "nhwc", "colour": "bgr", **PIXELS},
        {"dtype": TensorProto.UINT8, **PIXELS},
        {"opset": 17},
    ],
)
def test_the_exported_file_returns_the_vectors_of_the_source(
    foreign: Callable[..., LoadedNetwork], tmp_path: Path, form: dict[str, Any]
) -> None:
    network = foreign(**form)
    source = foreign_source(network)
    path = source.write(tmp_path / "model.onnx", normalize=False, bake_preprocessing=False)
    crops = RNG.integers(0, 256, (5, *SIZE_HW, 3), np.uint8)
    features = embed(source.model, crops, forward=load_forward(path))
    np.testing.assert_allclose(features, network.embed(crops), rtol=1e-4, atol=1e-5)
    graph = onnx.load(path)
    onnx.checker.check_model(graph, full_check=True)
    assert [(v.name, v.type.tensor_type.shape.dim[0].dim_param) for v in graph.graph.input] == [
        ("images", "batch")
    ]
    assert [value.name for value in graph.graph.output] == ["features"]
    assert "other" not in [node.name for node in graph.graph.node]
    assert graph_cost(path) == source.cost
    facts = {entry.key: entry.value for entry in graph.metadata_props}
    assert facts["vector_space"] == str(network.space)


@pytest.mark.usefixtures("quick_latency")
def test_every_precision_passes_the_gate_and_runs_on_a_device(
    foreign: Callable[..., LoadedNetwork],
    test_split,
    training,
    tmp_path: Path,
    lenient_budgets: dict[str, AccuracyBudget],
) -> None:
    network = foreign(colour="bgr", mean=(0.5, 0.4, 0.3))
    report = export_model(
        foreign_source(network),
        tmp_path / "out",
        test=test_split,
        calibration=training,
        precisions=("fp16", "int8"),
        budgets=lenient_budgets,
        source=network.path,
    )
    manifest = read_manifest(report.folder)
    assert {artifact.status for artifact in manifest.artifacts} == {"verified"}
    assert manifest.artifacts[0].parity is not None
    assert manifest.artifacts[0].parity.min_cosine > 0.99999
    assert (manifest.space, manifest.name) == (network.space, "old.onnx")
    crops = test_split.query.crops[:3]
    vectors = network.embed(crops)
    expected = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    np.testing.assert_allclose(Extractor(report.folder).embed(crops), expected, atol=1e-5)
    model, forward = load_exported(report.folder / "model.int8.onnx")
    quantised = embed(model, crops, forward=forward)
    cosine = (quantised * vectors).sum(1)
    assert (
        cosine > 0.95 * np.linalg.norm(quantised, axis=1) * np.linalg.norm(vectors, axis=1)
    ).all()


def test_an_openvino_ir_cannot_be_exported(foreign: Callable[..., LoadedNetwork]) -> None:
    openvino = pytest.importorskip("openvino", reason="needs openvino, of the extra [openvino]")
    path = foreign(opset=17).path
    target = path.with_suffix(".xml")
    openvino.save_model(openvino.convert_model(path), target, compress_to_fp16=False)
    declared = Preprocessing(colour="rgb", range=1, output="features")
    with pytest.raises(PivlError, match="OpenVINO IR, which cannot be written as ONNX"):
        foreign_source(load_foreign(target, declared))


def test_what_cannot_be_exported_says_why(foreign: Callable[..., LoadedNetwork]) -> None:
    with pytest.raises(PivlError, match="half precision"):
        foreign_source(foreign(dtype=TensorProto.FLOAT16))
    fixed = helper.make_node("Reshape", ["features", "shape"], ["tail"], "reshape")
    shape = helper.make_node(
        "Constant", [], ["shape"], value=numpy_helper.from_array(np.array([2, 24]))
    )
    with pytest.raises(PivlError, match="dynamic batch axis"):
        foreign_source(foreign(batch=2, tail=(shape, fixed)))

"""The exported file: a single file, a dynamic batch, metadata, and torch's features."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

import export.onnx_export
from export.onnx_export import OPSET, preprocessing_nodes, write_onnx
from export.onnx_inference import run_session
from pivl_distill.runtime.onnx_session import open_session

ARCHS = ["mobilenetv2_025", "vit_tiny_patch16_224"]


@pytest.mark.parametrize("name", ARCHS)
@pytest.mark.parametrize("batch", [1, 3])
def test_features_equal_torch_at_any_batch_size(exported, name, batch):
    model, path = exported(name)
    images = torch.randn(batch, 3, *model.size_hw)
    with torch.inference_mode():
        expected = model.network(images)
    features = run_session(open_session(path), images)
    # Relative to the largest feature, because sums of floats depend on their order.
    assert (features - expected).abs().max() < 1e-4 * expected.abs().max()


def test_inputs_outputs_and_metadata(mobilenet):
    model, path = mobilenet
    graph = onnx.load(path)
    onnx.checker.check_model(graph, full_check=True)
    assert [(entry.domain, entry.version) for entry in graph.opset_import] == [("", OPSET)]
    assert OPSET == 20  # another opset needs other versions of the runtimes
    session = open_session(path)
    (images,), (features,) = session.get_inputs(), session.get_outputs()
    assert (images.name, images.type, images.shape) == (
        "images",
        "tensor(float)",
        ["batch", 3, *model.size_hw],
    )
    assert (features.name, features.shape) == ("features", ["batch", 1280])
    metadata = {p.key: p.value for p in graph.metadata_props}
    assert metadata["name"] == "mobilenetv2_025"
    assert json.loads(metadata["size_hw"]) == list(model.size_hw)
    assert json.loads(metadata["mean"]) == list(model.mean)
    assert json.loads(metadata["std"]) == list(model.std)
    assert json.loads(metadata["normalised"]) is False


def test_export_is_one_file_without_training_operators(mobilenet):
    _, path = mobilenet
    assert [p.name for p in path.parent.iterdir()] == ["model.onnx"]
    operators = {node.op_type for node in onnx.load(path).graph.node}
    assert not operators & {"BatchNormalization", "Dropout"}


def test_file_has_no_path_of_this_machine(mobilenet):
    model, path = mobilenet
    data = path.read_bytes()
    assert b"site-packages" not in data
    assert str(Path(export.onnx_export.__file__).parent).encode() not in data
    weights = 4 * sum(p.numel() for p in model.network.parameters())
    assert len(data) < 1.1 * weights


def test_normalisation_in_the_graph_and_stale_weights_removed(mobilenet, tmp_path):
    model, raw_path = mobilenet
    (tmp_path / "model.onnx.data").write_bytes(b"weights of an earlier export")
    path = write_onnx(model, tmp_path / "model.onnx", normalize=True)
    images = torch.randn(2, 3, *model.size_hw)
    raw, unit = run_session(open_session(raw_path), images), run_session(open_session(path), images)
    torch.testing.assert_close(unit, raw / raw.norm(dim=1, keepdim=True))
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]
    normalised = {p.key: p.value for p in onnx.load(path).metadata_props}["normalised"]
    assert json.loads(normalised) is True


@pytest.mark.parametrize("normalize", [False, True])
def test_baked_in_preprocessing_accepts_uint8_crops(small, tmp_path, normalize):
    path = write_onnx(small, tmp_path / "m.onnx", normalize=normalize, bake_preprocessing=True)
    crops = np.random.default_rng(0).integers(0, 256, (5, *small.size_hw, 3), np.uint8)
    session = open_session(path)
    (images,) = session.get_inputs()
    assert (images.type, images.shape) == ("tensor(uint8)", ["batch", *small.size_hw, 3])
    with torch.inference_mode():
        expected = small.network(small.preprocess(crops))
    if normalize:
        expected = expected / expected.norm(dim=1, keepdim=True)
    torch.testing.assert_close(run_session(session, torch.from_numpy(crops)), expected)
    baked = {p.key: p.value for p in onnx.load(path).metadata_props}["preprocessing_in_graph"]
    assert json.loads(baked) is True


def test_preprocessing_nodes_end_at_the_first_convolution(small, tmp_path):
    graph = onnx.load(write_onnx(small, tmp_path / "m.onnx", bake_preprocessing=True)).graph
    nodes = preprocessing_nodes(graph)
    # Cast comes first, because TensorRT cannot transpose uint8.
    assert [node.op_type for node in nodes] == ["Cast", "Transpose", "Div", "Sub", "Div"]
    (following,) = [n for n in graph.node if nodes[-1].output[0] in n.input]
    assert following.op_type == "Conv"


def test_plain_graph_has_no_preprocessing_nodes(small_onnx):
    assert preprocessing_nodes(onnx.load(small_onnx).graph) == []


def test_failed_export_leaves_the_old_file(mobilenet, tmp_path, monkeypatch):
    model, _ = mobilenet
    path = tmp_path / "model.onnx"
    path.write_bytes(b"old")

    def fail(*_args, **_kwargs):
        raise RuntimeError("no graph")

    monkeypatch.setattr(export.onnx_export.torch.onnx, "export", fail)
    with pytest.raises(RuntimeError, match="no graph"):
        write_onnx(model, path)
    assert path.read_bytes() == b"old"

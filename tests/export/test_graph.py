"""The exported file: one file, a free batch, metadata, the same numbers as torch."""

from __future__ import annotations

import json

import onnx
import pytest
import torch

import export.graph
from export.graph import write_onnx
from export.session import open_session, run

ARCHS = ["mobilenetv2_025", "vit_tiny_patch16_224"]


@pytest.mark.parametrize("name", ARCHS)
@pytest.mark.parametrize("batch", [1, 3])
def test_any_batch_gives_what_torch_gives(exported, name, batch):
    model, path = exported(name)
    images = torch.randn(batch, 3, *model.size_hw)
    with torch.inference_mode():
        expected = model.network(images)
    features = run(open_session(path), images)
    # A bound relative to the scale of the features: sums of floats depend on their order.
    assert (features - expected).abs().max() < 1e-4 * expected.abs().max()


def test_inputs_outputs_and_metadata(mobilenet):
    model, path = mobilenet
    graph = onnx.load(path)
    onnx.checker.check_model(graph, full_check=True)
    session = open_session(path)
    (images,), (features,) = session.get_inputs(), session.get_outputs()
    assert (images.name, images.type, images.shape) == (
        "images",
        "tensor(float)",
        ["batch", 3, *model.size_hw],
    )
    assert (features.name, features.shape) == ("features", ["batch", 1280])
    facts = {p.key: p.value for p in graph.metadata_props}
    assert facts["name"] == "mobilenetv2_025"
    assert json.loads(facts["size_hw"]) == list(model.size_hw)
    assert json.loads(facts["mean"]) == list(model.mean)
    assert json.loads(facts["std"]) == list(model.std)
    assert json.loads(facts["normalised"]) is False


def test_it_is_one_file_without_training_operators(mobilenet):
    _, path = mobilenet
    assert [p.name for p in path.parent.iterdir()] == ["model.onnx"]
    operators = {node.op_type for node in onnx.load(path).graph.node}
    assert not operators & {"BatchNormalization", "Dropout"}


def test_normalisation_in_the_graph_and_stale_weights_removed(mobilenet, tmp_path):
    model, raw_path = mobilenet
    (tmp_path / "model.onnx.data").write_bytes(b"of an earlier export")
    path = write_onnx(model, tmp_path / "model.onnx", normalize=True)
    images = torch.randn(2, 3, *model.size_hw)
    raw, unit = run(open_session(raw_path), images), run(open_session(path), images)
    torch.testing.assert_close(unit, raw / raw.norm(dim=1, keepdim=True))
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]
    normalised = {p.key: p.value for p in onnx.load(path).metadata_props}["normalised"]
    assert json.loads(normalised) is True


def test_a_failed_write_leaves_the_old_file(mobilenet, tmp_path, monkeypatch):
    model, _ = mobilenet
    path = tmp_path / "model.onnx"
    path.write_bytes(b"old")

    def fail(*_args, **_kwargs):
        raise RuntimeError("no graph")

    monkeypatch.setattr(export.graph.torch.onnx, "export", fail)
    with pytest.raises(RuntimeError, match="no graph"):
        write_onnx(model, path)
    assert path.read_bytes() == b"old"

"""Costs counted from modules and from the graph agree with each other and with a hand count."""

from __future__ import annotations

import onnx
import pytest
import torch
from torch import nn

from export.cost import Cost, check_no_training_layers, graph_cost, network_cost
from export.fp16 import write_fp16
from export.int8 import INT8_FILES, write_int8
from export.onnx_export import write_onnx
from pivl_distill.errors import PivlError, VerificationError
from pivl_distill.models.embedding import EmbeddingModel
from students.backbones import create_backbone


class Small(nn.Module):
    """A batch norm that is folded, one that is not, and a linear layer: easy to count by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.folded = nn.BatchNorm2d(4)
        self.unfolded = nn.BatchNorm2d(4)
        self.linear = nn.Linear(4, 5)
        for norm in (self.folded, self.unfolded):
            nn.init.normal_(norm.bias)

    def forward(self, images):
        maps = self.unfolded(self.folded(self.conv(images)).relu())
        return self.linear(maps.mean((2, 3)))


SMALL_COST = Cost(parameters=3 * 4 * 9 + 4 + 4 * 4 + 4 * 5 + 5, macs=8 * 6 * 3 * 4 * 9 + 4 * 5)


def small_model(network: nn.Module) -> EmbeddingModel:
    return EmbeddingModel("small", network.eval(), (8, 6), (0.5,) * 3, (0.5,) * 3)


def test_costs_equal_a_count_by_hand(tmp_path):
    network = Small()
    path = write_onnx(small_model(network), tmp_path / "small.onnx")
    assert network_cost(network, (8, 6)) == SMALL_COST
    assert graph_cost(path) == SMALL_COST


@pytest.mark.parametrize("name", ["mobilenetv2_025", "resnet18", "vit_tiny_patch16_224"])
def test_graph_and_network_agree_exactly(exported, name):
    model, path = exported(name)
    cost = network_cost(model.network, model.size_hw)
    assert graph_cost(path) == cost
    check_no_training_layers(path, cost)
    assert cost.macs > 0


@pytest.mark.parametrize("name", ["small", "vit_tiny_patch16_224"])
def test_every_precision_and_form_costs_the_same(exported, small, small_onnx, name, tmp_path):
    model, fp32 = (small, small_onnx) if name == "small" else exported(name)
    cost = network_cost(model.network, model.size_hw)
    ranges = dict.fromkeys(tensors(fp32), (-3.0, 3.0))
    assert graph_cost(write_fp16(fp32, tmp_path / "fp16.onnx")) == cost
    for form in INT8_FILES:
        assert graph_cost(write_int8(fp32, tmp_path / "int8.onnx", form, ranges)) == cost


@pytest.mark.parametrize("normalize", [False, True])
def test_baked_in_preprocessing_is_not_counted(small, tmp_path, normalize):
    path = write_onnx(small, tmp_path / "b.onnx", normalize=normalize, bake_preprocessing=True)
    cost = network_cost(small.network, small.size_hw)
    assert graph_cost(path) == cost
    assert graph_cost(write_fp16(path, tmp_path / "fp16.onnx")) == cost


def tensors(path) -> list[str]:
    graph = onnx.load(path).graph
    return [name for node in graph.node for name in (*node.input, *node.output)]


def test_graph_and_untrained_network_agree(tmp_path):
    """Its norms are ones and zeros, which the exporter merges or removes."""
    network = create_backbone("mobilenetv2_025", image_size_hw=(64, 32))
    model = EmbeddingModel("new", network, (64, 32), (0.5,) * 3, (0.5,) * 3)
    path = write_onnx(model, tmp_path / "new.onnx")
    assert graph_cost(path) == network_cost(network, (64, 32))


def test_cost_is_the_same_in_training_mode():
    network = Small().train()
    assert network_cost(network, (8, 6)) == SMALL_COST


@pytest.mark.parametrize("extra", ["layer", "norm"])
def test_graph_larger_than_the_network_is_rejected(tmp_path, extra):
    bare = Small()
    addition = nn.Linear(5, 5) if extra == "layer" else nn.LayerNorm(5)
    path = write_onnx(small_model(nn.Sequential(bare, addition)), tmp_path / "larger.onnx")
    with pytest.raises(VerificationError, match="but the bare network"):
        check_no_training_layers(path, network_cost(bare, (8, 6)))
    with pytest.raises(VerificationError, match="but the bare network"):
        check_no_training_layers(write_fp16(path, path), network_cost(bare, (8, 6)))


def test_quantised_graph_larger_than_the_network_is_rejected(tmp_path):
    path = write_onnx(
        small_model(nn.Sequential(Small(), nn.Linear(5, 5))), tmp_path / "larger.onnx"
    )
    ranges = dict.fromkeys(tensors(path), (-3.0, 3.0))
    for form in INT8_FILES:
        quantised = write_int8(path, tmp_path / "int8.onnx", form, ranges)
        with pytest.raises(VerificationError, match="but the bare network"):
            check_no_training_layers(quantised, SMALL_COST)


def test_unknown_shapes_are_an_error_not_zero(tmp_path):
    images = onnx.helper.make_tensor_value_info("images", 1, ["batch", 3, "H", "W"])
    features = onnx.helper.make_tensor_value_info("features", 1, None)
    weight = onnx.numpy_helper.from_array(torch.zeros(4, 3, 1, 1).numpy(), "weight")
    conv = onnx.helper.make_node("Conv", ["images", "weight"], ["features"])
    graph = onnx.helper.make_graph([conv], "g", [images], [features], [weight])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "free.onnx")
    with pytest.raises(PivlError, match="shapes at Conv"):
        graph_cost(tmp_path / "free.onnx")

"""The training interface: the neck, and tensors of an encoder output."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from pivl_distill.models.network import BNNeck, EncoderOutput


def test_the_neck_normalises_over_the_batch_and_classifies():
    torch.manual_seed(0)
    neck = BNNeck(6, 4)
    features = 3 + 2 * torch.randn(32, 6)
    standard = (features - features.mean(0)) / (features.var(0, unbiased=False) + 1e-5).sqrt()
    torch.testing.assert_close(neck(features), standard @ neck.classifier.weight.T)


def test_the_neck_has_no_trained_bias():
    neck = BNNeck(6, 4)
    trained = {name for name, p in neck.named_parameters() if p.requires_grad}
    assert trained == {"norm.weight", "classifier.weight"}
    assert not neck.norm.bias.any()
    assert neck.classifier.weight.std() < 0.002


def test_the_neck_in_evaluation_mode_is_a_linear_map():
    torch.manual_seed(0)
    neck = BNNeck(6, 4).eval()
    for tensor in (neck.norm.running_mean, neck.norm.weight.data, neck.classifier.weight.data):
        tensor.normal_()
    neck.norm.running_var.uniform_(0.1, 2)
    weight, bias = neck.as_linear()
    features = torch.randn(5, 6)
    torch.testing.assert_close(features @ weight.T + bias, neck(features), rtol=1e-5, atol=1e-5)
    assert not weight.requires_grad
    assert not bias.requires_grad


def test_encoder_output_tensors_keep_their_order():
    output = EncoderOutput((torch.zeros(1), torch.ones(1)), torch.full((1,), 2.0))
    doubled = output.with_tensors([2 * tensor for tensor in output.tensors()])
    assert [tensor.item() for tensor in doubled.tensors()] == [0, 2, 4]
    without_cells = dataclasses.replace(output, cells=None)
    assert without_cells.with_tensors(without_cells.tensors()).cells is None


@pytest.mark.parametrize("has_cells", [True, False])
@pytest.mark.parametrize("has_map", [True, False])
def test_encoder_outputs_keep_their_structure(has_cells, has_map):
    cells, final_map = torch.full((1,), 2.0), torch.full((1,), 3.0)
    output = EncoderOutput(
        (torch.zeros(1),), cells if has_cells else None, final_map if has_map else None
    )
    same = output.with_tensors(output.tensors())
    assert same == output

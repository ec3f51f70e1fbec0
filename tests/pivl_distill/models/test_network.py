"""The training interface: the neck, and tensors of an encoder output."""

from __future__ import annotations

import dataclasses

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


def test_encoder_output_tensors_keep_their_order():
    output = EncoderOutput((torch.zeros(1), torch.ones(1)), torch.full((1,), 2.0))
    doubled = output.with_tensors([2 * tensor for tensor in output.tensors()])
    assert [tensor.item() for tensor in doubled.tensors()] == [0, 2, 4]
    without_cells = dataclasses.replace(output, cells=None)
    assert without_cells.with_tensors(without_cells.tensors()).cells is None

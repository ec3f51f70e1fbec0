"""State dictionaries survive packing unchanged."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor

from pivl_distill.runs.state import OptimizerState, pack_state, unpack_state


def test_unpacked_state_has_same_keys_types_and_strides():
    kernel = torch.randn(4, 3, 5, 5).to(memory_format=torch.channels_last)
    state = {
        "state": {0: {"step": torch.tensor(3.0), "moment": kernel}, 1: {}},
        "groups": [{"lr": 0.1, "betas": [0.9, 0.999], "fused": True, "none": None}],
        "flat.name": torch.arange(3),
    }
    tensors: dict[str, Tensor] = {}
    packed = json.loads(json.dumps(pack_state(state, "optimizer", tensors)))
    assert set(tensors) == {
        "optimizer.state.0.step",
        "optimizer.state.0.moment",
        "optimizer.flat.name",
    }
    unpacked = unpack_state(packed, {name: t.contiguous() for name, t in tensors.items()})
    assert unpacked["groups"] == state["groups"]
    assert unpacked["state"].keys() == {0, 1}
    assert torch.equal(unpacked["state"][0]["moment"], kernel)
    assert unpacked["state"][0]["moment"].stride() == kernel.stride()
    assert torch.equal(unpacked["flat.name"], state["flat.name"])


def test_optimizer_state_keeps_the_present_hyperparameters():
    weight = torch.nn.Parameter(torch.ones(3))
    before = torch.optim.Adam([weight], lr=1.0, weight_decay=0.5)
    weight.grad = torch.ones(3)
    before.step()
    after = torch.optim.AdamW([weight], lr=0.1, weight_decay=0.0)
    OptimizerState(after).load_state_dict(OptimizerState(before).state_dict())
    (group,) = after.param_groups
    assert (group["lr"], group["weight_decay"], group["decoupled_weight_decay"]) == (0.1, 0, True)
    assert torch.equal(after.state[weight]["exp_avg"], before.state[weight]["exp_avg"])


@pytest.mark.parametrize("stride", [[2**40], [-1], [1, 1]])
def test_absurd_strides_are_refused(stride):
    with pytest.raises(ValueError, match=r"strides|zip"):
        unpack_state({"tensor": "a", "stride": stride}, {"a": torch.ones(3)})

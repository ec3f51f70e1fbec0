"""State dictionaries survive packing unchanged."""

from __future__ import annotations

import json

import torch
from torch import Tensor

from pivl_distill.runs.state import pack_state, unpack_state


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

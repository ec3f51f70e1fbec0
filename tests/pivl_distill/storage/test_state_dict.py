"""State dicts are loaded completely or not at all, and one error names what does not fit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pivl_distill.errors import PivlError
from pivl_distill.storage.state_dict import load_matching_state


@pytest.fixture
def network() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))


@pytest.fixture
def state(network: nn.Module) -> dict[str, Tensor]:
    return {name: torch.ones_like(value) for name, value in network.state_dict().items()}


def load(network: nn.Module, state: dict[str, Tensor], ignored: tuple[str, ...] = ()) -> None:
    load_matching_state(network, state, "a.pt", "the network", "Do this.", ignored=ignored)


def test_matching_tensors_are_loaded(network, state) -> None:
    load(network, state)
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())


def test_batch_counters_may_be_missing(network, state) -> None:
    del state["1.num_batches_tracked"]
    load(network, state)
    assert torch.equal(network[1].weight, state["1.weight"])


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"0.bias": None}, "missing 0.bias"),
        ({"2.bias": torch.zeros(1)}, "unexpected 2.bias"),
        ({"0.weight": torch.zeros(3, 4)}, "0.weight is (3, 4), not (3, 2)"),
    ],
)
def test_the_error_names_the_difference_and_nothing_is_loaded(
    network, state, change, difference
) -> None:
    before = network[1].weight.clone()
    changed = {name: value for name, value in (state | change).items() if value is not None}
    with pytest.raises(PivlError) as error:
        load(network, changed)
    expected = f"'a.pt' does not fit the network, 1 tensor differs: {difference}. Do this."
    assert str(error.value) == expected
    assert torch.equal(network[1].weight, before)


def test_at_most_five_differences_are_named(network, state) -> None:
    with pytest.raises(PivlError, match="6 tensors differ: ") as error:
        load(network, {name: value[None] for name, value in state.items() if value.ndim})
    assert str(error.value).count("not (") == 5


def test_tensors_under_ignored_prefixes_are_skipped(network, state) -> None:
    load(network, state | {"classifier.weight": torch.zeros(1)}, ignored=("classifier.",))
    assert torch.equal(network[0].weight, state["0.weight"])

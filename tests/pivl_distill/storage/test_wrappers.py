"""State dicts are found at the keys and with the prefixes that people save them with."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pivl_distill.errors import PivlError
from pivl_distill.storage.wrappers import unwrap, without_prefixes

STATE = {"conv.weight": torch.ones(2, 3), "bn.num_batches_tracked": torch.tensor(7)}


def prefixed(prefix: str) -> dict[str, torch.Tensor]:
    return {f"{prefix}{name}": value for name, value in STATE.items()}


@pytest.mark.parametrize(
    "content",
    [
        STATE,
        prefixed("module."),
        prefixed("_orig_mod.module."),
        prefixed("module._orig_mod."),
        prefixed("module.") | {"n_averaged": torch.tensor(5)},
        STATE | {"epoch": 3, "arch": "resnet18", "config": None},
        {"epoch": 3, "state_dict": prefixed("module.")},
        {"model": {"state_dict": STATE}, "epoch": 3},
        {"net": STATE, "optimizer": {"state": {0: {"exp_avg": torch.ones(1)}}, "param_groups": []}},
        {"my_own_name": STATE, "optimizer": {"state": {0: {"step": torch.ones(1)}}}},
        {"loss": torch.tensor(0.5), "model_state_dict": STATE},
        {"state_dict": {"conv.weight": torch.zeros(2, 3)}, "model_ema": STATE},
        {"ema": {"decay": 0.9, "module": STATE}, "model": {"conv.weight": torch.zeros(2, 3)}},
        {"ema": {"decay": 0.9, "updates": 3}, "model": STATE},
    ],
)
def test_wrappers_and_prefixes_are_looked_through(content):
    state = without_prefixes(unwrap(content, Path("file.pth")))
    assert state.keys() == STATE.keys()
    assert all(torch.equal(state[name], STATE[name]) for name in STATE)


def test_a_prefix_of_some_names_stays():
    state = {"module.weight": torch.ones(1), "head.weight": torch.ones(1)}
    assert without_prefixes(state) == state


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ({"epoch": 3}, "a dict of 'epoch'"),
        ({"generator": STATE, "critic": STATE}, "a dict of 'generator', 'critic'"),
        ([1, 2], "but list"),
        (torch.ones(1), "but Tensor"),
        ({}, "a dict of nothing"),
    ],
)
def test_contents_without_one_state_dict_are_refused(content, found):
    with pytest.raises(PivlError, match=f"'file.pth' holds no state dict, .*{found}"):
        unwrap(content, Path("file.pth"))


def test_a_dict_that_is_held_a_million_times_costs_nothing():
    inner: dict[str, object] = {"a": 3}
    for _ in range(3):
        inner = {str(number): inner for number in range(1_000)}
    with pytest.raises(PivlError, match="holds no state dict") as raised:
        unwrap({"x" * 10**6: inner}, Path("file.pth"))
    assert len(str(raised.value)) < 500


def test_thousands_of_prefixes_are_not_stripped():
    assert len(next(iter(without_prefixes({"module." * 5_000: torch.ones(1)})))) > 30_000

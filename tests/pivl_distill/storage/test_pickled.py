"""The instructions of a pickle tell what is in the way of loading it; nothing is unpickled."""

from __future__ import annotations

import os
import pickle

import pytest
import torch

from pivl_distill.storage import pickled
from pivl_distill.storage.pickled import Obstacle, find_obstacle, saving_command

REFUSAL = "Unsupported global: GLOBAL posix.system was not an allowed global by default."


class Harmful:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("exit 9",)


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_the_object_and_its_key_are_found(tmp_path, protocol):
    content = {"state_dict": {"weight": torch.ones(1)}, "callback": Harmful()}
    torch.save(content, tmp_path / "file.pth", pickle_protocol=protocol)
    obstacle = find_obstacle(tmp_path / "file.pth", REFUSAL)
    assert obstacle is not None
    assert str(obstacle) == "an object of posix.system at 'callback'"
    assert {"state_dict", "weight", "callback"} <= obstacle.strings


def test_a_refusal_without_an_object_has_no_obstacle(tmp_path):
    assert find_obstacle(tmp_path / "none.pth", "Weights only load failed.") is None


def test_another_protocol_is_an_obstacle(tmp_path):
    torch.save({"model": {}, "names": {"a"}}, tmp_path / "file.pth", pickle_protocol=4)
    obstacle = find_obstacle(tmp_path / "file.pth", "Unsupported operand 149")
    assert str(obstacle) == "objects of another pickle protocol"
    (tmp_path / "text.pth").write_text("text")
    assert find_obstacle(tmp_path / "text.pth", "Unsupported operand 101") is None


@pytest.mark.parametrize("content", [b"", b"no pickle", pickle.dumps({"a": 1})[:-3]])
def test_damaged_pickles_have_no_key(tmp_path, content):
    (tmp_path / "file.pth").write_bytes(content)
    obstacle = find_obstacle(tmp_path / "file.pth", REFUSAL)
    assert str(obstacle) == "an object of posix.system"


def test_a_pickle_is_read_up_to_a_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(pickled, "MAX_INSTRUCTIONS", 5)
    torch.save({"many": [*range(100)], "callback": Harmful()}, tmp_path / "file.pth")
    obstacle = find_obstacle(tmp_path / "file.pth", REFUSAL)
    assert obstacle is not None
    assert obstacle.key is None


def test_the_command_names_the_preferred_wrapper(tmp_path):
    obstacle = Obstacle("a numpy scalar", "rank1", frozenset({"model", "state_dict", "rank1"}))
    command = saving_command(tmp_path / "a.b.pth", obstacle, ("ema", "state_dict", "model"))
    source, target = f'"{tmp_path}/a.b.pth"', f'"{tmp_path}/a.weights.pth"'
    assert f'torch.load({source}, "cpu", pickle)["state_dict"], {target})' in command

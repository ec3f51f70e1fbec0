"""Tensor files: what was saved comes back, and anything else is refused by name."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from pivl_distill.errors import PivlError
from pivl_distill.storage import tensors
from pivl_distill.storage.tensors import load_tensors, save_tensors


def test_tensors_of_every_type_and_facts_come_back(tmp_path):
    tensors = {
        "float": torch.randn(3, 4),
        "half": torch.randn(2).half(),
        "bool": torch.tensor([[True, False]]),
        "scalar": torch.tensor(7),
        "empty": torch.zeros(0, 3),
        "transposed": torch.randn(3, 4).T,
        "parameter": nn.Parameter(torch.randn(2)),
    }
    metadata = {"size_hw": [128, 64], "name": "π", "nested": {"none": None, "rate": 0.1}}
    save_tensors(tmp_path / "file.safetensors", "student", tensors, metadata)
    kind, loaded, loaded_facts = load_tensors(tmp_path / "file.safetensors", "teacher", "student")
    assert kind == "student"
    assert loaded_facts == metadata
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(loaded[name], tensor), name
        assert loaded[name].dtype == tensor.dtype
        assert not loaded[name].requires_grad


def test_a_whole_network_comes_back(tmp_path):
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    network(torch.randn(2, 3, 8, 8))
    save_tensors(tmp_path / "file", "student", network.state_dict(), {})
    other = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    other.load_state_dict(load_tensors(tmp_path / "file", "student")[1])
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(other.eval()(images), network.eval()(images))


def test_a_missing_file_says_what_was_expected(tmp_path):
    with pytest.raises(PivlError, match=r"No teacher or student at .*none\.safetensors"):
        load_tensors(tmp_path / "none.safetensors", "teacher", "student")


@pytest.mark.parametrize("content", [b"", b"text", b"\x80\x04\x95" + b"pickle" * 9])
def test_a_file_that_holds_no_tensors(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(PivlError, match=r"file is not a student: "):
        load_tensors(tmp_path / "file", "student")


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(PivlError, match="is not a student"):
        load_tensors(tmp_path, "student")


def test_a_truncated_file(tmp_path):
    path = tmp_path / "file"
    save_tensors(path, "student", {"weight": torch.zeros(100)}, {})
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(PivlError, match="is not a student"):
        load_tensors(path, "student")


def test_the_same_tensors_and_facts_are_the_same_bytes(tmp_path):
    tensors = {name: torch.arange(4.0) for name in "badc"}
    for name in ("one", "other"):
        save_tensors(tmp_path / name, "student", tensors, {"b": 1, "a": [2]})
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()


def test_a_file_of_another_kind_or_format_is_named(tmp_path, monkeypatch):
    path = tmp_path / "file"
    save_tensors(path, "prompt bank", {"weight": torch.zeros(1)}, {})
    with pytest.raises(PivlError, match="not a student of format 2, but of kind 'prompt bank'"):
        load_tensors(path, "student")
    with monkeypatch.context() as patch:
        patch.setattr(tensors, "FORMAT", 3)
        save_tensors(path, "student", {"weight": torch.zeros(1)}, {})
    with pytest.raises(PivlError, match="kind 'student' and format 3"):
        load_tensors(path, "student")


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_a_file_that_is_not_ours_is_refused(tmp_path, metadata):
    save_file({"weight": torch.zeros(1)}, tmp_path / "file", metadata)
    with pytest.raises(PivlError, match=r"is not a student .* of kind None and format None"):
        load_tensors(tmp_path / "file", "student")


def test_a_fact_that_another_version_did_not_write_is_named(tmp_path):
    path = tmp_path / "old.safetensors"
    save_tensors(path, "thing", {}, {"size_hw": [2, 1]})
    _, _, metadata = load_tensors(path, "thing")
    assert metadata == {"size_hw": [2, 1]}
    assert metadata.get("mean") is None
    with pytest.raises(PivlError, match=r"old\.safetensors does not say its 'mean'"):
        metadata["mean"]

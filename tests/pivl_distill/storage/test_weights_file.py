"""Weights files of others: state dicts are read; hostile files are refused at once."""

from __future__ import annotations

import argparse
import pickle
import re
import shlex
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from pivl_distill.errors import PivlError
from pivl_distill.storage.weights_file import read_state_dict

STATE = {"conv.weight": torch.ones(3, 2), "conv.bias": torch.zeros(3)}


@pytest.mark.parametrize(
    "wrapped",
    [
        STATE,
        {"epoch": 3, "state_dict": STATE},
        {"model": STATE, "epoch": 3},
        {"model": {}, "state_dict_ema": STATE, "state_dict": {"other": torch.ones(1)}},
        {f"module.{name}": value for name, value in STATE.items()},
        {f"_orig_mod.module.{name}": value for name, value in STATE.items()},
        {f"module._orig_mod.{name}": value for name, value in STATE.items()},
    ],
)
@pytest.mark.parametrize("new_format", [True, False])
def test_wrappers_and_prefixes_are_removed(tmp_path, wrapped, new_format):
    path = tmp_path / "weights.pth"
    torch.save(wrapped, path, _use_new_zipfile_serialization=new_format)
    loaded = read_state_dict(path)
    assert loaded.keys() == STATE.keys()
    assert all(torch.equal(loaded[name], STATE[name]) for name in STATE)


def test_safetensors_and_torchscript_are_read(tmp_path):
    network = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2))
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    torch.jit.save(torch.jit.script(network), tmp_path / "weights.pt")
    for name in ("weights.safetensors", "weights.pt"):
        assert read_state_dict(tmp_path / name).keys() == network.state_dict().keys()


def test_tied_tensors_are_accepted(tmp_path):
    weight = torch.ones(64, 64)
    torch.save({"encoder": weight, "decoder": weight, "transposed": weight.T}, tmp_path / "w.pth")
    assert len(read_state_dict(tmp_path / "w.pth")) == 3


@pytest.mark.parametrize(
    "content",
    [
        {},
        [],
        3,
        {"model": 3},
        {"model": [torch.ones(1)]},
        {1: torch.ones(1)},
    ],
)
def test_anything_but_a_state_dict_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(PivlError, match="holds no state dict"):
        read_state_dict(tmp_path / "weights.pth")


class Touch:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> object:
        return Path.touch, (self.path,)


@pytest.mark.parametrize(
    "write", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))]
)
def test_pickled_code_does_not_run(tmp_path, write):
    write({"state_dict": Touch(tmp_path / "ran")}, tmp_path / "weights.pth")
    with pytest.raises(PivlError, match=r"not a readable weights file: .*holds more than tensors"):
        read_state_dict(tmp_path / "weights.pth")
    assert not (tmp_path / "ran").exists()


class WritesWhenOpened(nn.Module):
    """A TorchScript network that writes a file when it is opened."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path, self.weight = path, nn.Parameter(torch.ones(1))

    def forward(self) -> torch.Tensor:
        return self.weight

    @torch.jit.export
    def __getstate__(self):
        return self.path, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[str, bool]) -> None:
        self.path, self.training = state
        self.weight = torch.from_file(self.path, shared=True, size=4)


def test_torchscript_that_runs_code_when_opened_is_refused(tmp_path):
    script = torch.jit.script(WritesWhenOpened(str(tmp_path / "written")))
    torch.jit.save(script, tmp_path / "weights.pt")
    with pytest.raises(
        PivlError, match="TorchScript archive with code that runs when it is opened"
    ):
        read_state_dict(tmp_path / "weights.pt")
    assert not (tmp_path / "written").exists()


def test_zip_bomb_is_refused(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(STATE, path)
    with (
        zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive,
        archive.open("weights/data/9", "w", force_zip64=True) as bomb,
    ):
        for _ in range(65):
            bomb.write(bytes(2**20))
    assert path.stat().st_size < 2**20
    with pytest.raises(PivlError, match=r"has 0\.1 MiB but unpacks to 65\.0 MiB"):
        read_state_dict(path)


def test_tensors_larger_than_their_contents_are_refused(tmp_path):
    torch.save({"a": torch.ones(1).expand(2**40)}, tmp_path / "expanded.pth")
    torch.save({"a": torch.empty(2**40, device="meta")}, tmp_path / "meta.pth")
    torch.save({"a": torch.sparse_coo_tensor(size=(2**40,))}, tmp_path / "sparse.pth")
    with pytest.raises(PivlError, match=r"its tensors claim 4,194,304\.0 MiB"):
        read_state_dict(tmp_path / "expanded.pth")
    for name in ("meta", "sparse"):
        with pytest.raises(PivlError, match=r"weights file|a is a sparse"):
            read_state_dict(tmp_path / f"{name}.pth")


def test_absurd_header_is_refused(tmp_path):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(struct.pack("<Q", 2**60) + b"{}")
    with pytest.raises(PivlError, match=r"is not a weights file: it declares a header of 1,152,"):
        read_state_dict(path)


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04" + bytes(99), b"\x80\x02]q."])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_other_contents_are_refused(tmp_path, content, suffix):
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    with pytest.raises(PivlError, match="weights"):
        read_state_dict(path)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(PivlError, match="There are no weights at"):
        read_state_dict(tmp_path / "weights.pth")


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    ("content", "obstacle"),
    [
        ({"rank1": np.float64(0.5), "state_dict": STATE}, "a numpy scalar at 'rank1'"),
        ({"state_dict": STATE, "mean": np.ones(3)}, "a numpy array at 'mean'"),
        ({"args": argparse.Namespace(lr=1), "model": STATE}, "argparse.Namespace at 'args'"),
    ],
)
def test_more_than_tensors_is_refused_with_a_command_that_helps(
    tmp_path, content, obstacle, legacy
):
    path = tmp_path / "it's best.pth.tar"
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(PivlError) as error:
        read_state_dict(path)
    message = str(error.value)
    assert re.search(rf"holds more than tensors \(.*{re.escape(obstacle)}\)", message)
    assert not re.search("weights_only|add_safe_globals", message)
    (line,) = re.findall(r"^  (python .*)$", message, flags=re.M)
    *command, code = shlex.split(line)
    assert command == ["python", "-c"]
    exec(code)
    saved = read_state_dict(tmp_path / "it's best.weights.pth")
    assert saved.keys() == STATE.keys()


def test_the_command_for_a_whole_network_takes_its_state_dict(tmp_path):
    torch.save({"model": nn.Sequential(nn.Linear(2, 2))}, tmp_path / "net.pt")
    with pytest.raises(PivlError, match=r'torch\.nn\.modules(?s:.*)\["model"\]\.state_dict\(\)'):
        read_state_dict(tmp_path / "net.pt")


@pytest.mark.parametrize("content", [b"", b"text", b"\x80\x04", pickle.dumps({"a": {1, 2}})])
def test_other_files_are_refused_without_advice_that_does_not_help(tmp_path, content):
    (tmp_path / "file.pth").write_bytes(content)
    with pytest.raises(PivlError, match="is not a readable weights file") as error:
        read_state_dict(tmp_path / "file.pth")
    assert not re.search("weights_only|add_safe_globals", str(error.value))


def test_weights_that_are_not_finite_are_refused(tmp_path):
    torch.save(STATE | {"bn.running_var": torch.tensor([1, torch.inf])}, tmp_path / "file.pth")
    message = r"are broken: the tensor 'bn\.running_var' is not finite \(1 of 2 values\)"
    with pytest.raises(PivlError, match=message):
        read_state_dict(tmp_path / "file.pth")

"""Tensor files: loading returns what was saved, and other files are refused."""

from __future__ import annotations

import json
import struct

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from pivl_distill.errors import PivlError
from pivl_distill.storage import tensors
from pivl_distill.storage.tensors import is_foreign, load_tensors, save_tensors


def test_tensors_and_metadata_round_trip(tmp_path):
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
    kind, loaded, loaded_metadata = load_tensors(
        tmp_path / "file.safetensors", "teacher", "student"
    )
    assert kind == "student"
    assert loaded_metadata == metadata
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(loaded[name], tensor), name
        assert loaded[name].dtype == tensor.dtype
        assert not loaded[name].requires_grad


def test_network_round_trips(tmp_path):
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    network(torch.randn(2, 3, 8, 8))
    save_tensors(tmp_path / "file", "student", network.state_dict(), {})
    other = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    other.load_state_dict(load_tensors(tmp_path / "file", "student")[1])
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(other.eval()(images), network.eval()(images))


def test_missing_file_raises(tmp_path):
    with pytest.raises(PivlError, match=r"No teacher or student at .*none\.safetensors"):
        load_tensors(tmp_path / "none.safetensors", "teacher", "student")


@pytest.mark.parametrize("content", [b"", b"text", b"\x80\x04\x95" + b"pickle" * 9])
def test_file_without_tensors_raises(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(PivlError, match=r"file is not a student: "):
        load_tensors(tmp_path / "file", "student")


def test_folder_raises(tmp_path):
    with pytest.raises(PivlError, match="is not a student"):
        load_tensors(tmp_path, "student")


def test_truncated_file_raises(tmp_path):
    path = tmp_path / "file"
    save_tensors(path, "student", {"weight": torch.zeros(100)}, {})
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(PivlError, match="is not a student"):
        load_tensors(path, "student")


def test_equal_contents_give_equal_bytes(tmp_path):
    tensors = {name: torch.arange(4.0) for name in "badc"}
    for name in ("one", "other"):
        save_tensors(tmp_path / name, "student", tensors, {"b": 1, "a": [2]})
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()


def test_file_of_another_kind_raises(tmp_path):
    path = tmp_path / "file"
    save_tensors(path, "prompt bank", {"weight": torch.zeros(1)}, {})
    with pytest.raises(PivlError, match="file is not a student, but a prompt bank"):
        load_tensors(path, "student")


@pytest.mark.parametrize(
    ("kind", "remedy"),
    [
        ("prompt bank", "make it again with `pivl-distill teach`"),
        ("teacher", "make it again with `pivl-distill teach`"),
        ("teacher embeddings", "make it again with `pivl-distill teach`"),
        ("student", "make it again with `pivl-distill student`"),
        ("training progress", "start a new run"),
    ],
)
def test_file_of_format_1_names_the_command_that_makes_it_again(tmp_path, kind, remedy):
    path = tmp_path / "old.safetensors"
    metadata = json.dumps({"format": 1, "kind": kind, "facts": {}})
    save_file({"weight": torch.zeros(1)}, path, {"pivl-distill": metadata})
    with pytest.raises(PivlError) as refused:
        load_tensors(path, kind)
    sentence = f"{path} was written by an earlier version of pivl-distill (format 1, not 2); "
    assert str(refused.value).startswith(sentence)
    assert remedy in str(refused.value)


def test_file_of_a_later_format_raises(tmp_path, monkeypatch):
    path = tmp_path / "file"
    with monkeypatch.context() as patch:
        patch.setattr(tensors, "FORMAT", 3)
        save_tensors(path, "student", {"weight": torch.zeros(1)}, {})
    with pytest.raises(PivlError, match=r"written by another version .*format 3, not 2"):
        load_tensors(path, "student")


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_file_of_another_program_raises(tmp_path, metadata):
    save_file({"weight": torch.zeros(1)}, tmp_path / "file", metadata)
    with pytest.raises(PivlError, match="is not a student: it was not written by pivl-distill"):
        load_tensors(tmp_path / "file", "student")


def test_missing_metadata_key_raises(tmp_path):
    path = tmp_path / "old.safetensors"
    save_tensors(path, "thing", {}, {"size_hw": [2, 1]})
    _, _, metadata = load_tensors(path, "thing")
    assert metadata == {"size_hw": [2, 1]}
    assert metadata.get("mean") is None
    with pytest.raises(PivlError, match=r"metadata of .*old\.safetensors lacks 'mean'"):
        metadata["mean"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_tensors_that_are_not_finite_are_not_written(tmp_path, value, dtype):
    broken = {"fine": torch.zeros(3), "broken": torch.tensor([[1.0, value]], dtype=dtype)}
    message = r"The student was not written .* 'broken' is not finite \(1 of 2 values\)"
    with pytest.raises(PivlError, match=message):
        save_tensors(tmp_path / "file", "student", broken, {})
    with pytest.raises(PivlError, match=r"not finite: score\.mAP is "):
        save_tensors(tmp_path / "file", "student", {}, {"score": {"mAP": value}})
    assert list(tmp_path.iterdir()) == []


def test_file_with_a_value_that_is_not_finite_is_refused(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(tensors, "find_nonfinite_tensor", lambda _: None)
        save_tensors(tmp_path / "file", "teacher", {"w": torch.tensor([torch.nan])}, {})
    message = r"file is a broken teacher: the tensor 'w' is not finite .*; make it again with"
    with pytest.raises(PivlError, match=message):
        load_tensors(tmp_path / "file", "teacher")


def test_number_formats_that_torch_cannot_examine_are_converted():
    eight_bits = torch.tensor([1.0, float("nan")]).to(torch.float8_e5m2)
    assert tensors.find_nonfinite_tensor({"a": eight_bits[:1]}) is None
    assert "'b' is not finite" in str(tensors.find_nonfinite_tensor({"b": eight_bits}))
    assert tensors.find_nonfinite_tensor({"c": torch.zeros(1, device="meta")}) is None


def write_raw(path, header: str | bytes, data: bytes = b"") -> None:
    """Write a safetensors file with any header."""
    header = header.encode() if isinstance(header, str) else header
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)


def tensor_header(shape: list[int], dtype: str = "F32", end: int = 0) -> str:
    entry = json.dumps({"format": 2, "kind": "student", "metadata": {}})
    tensor = {"dtype": dtype, "shape": shape, "data_offsets": [0, end]}
    return json.dumps({"__metadata__": {"pivl-distill": entry}, "weight": tensor})


@pytest.mark.parametrize(
    ("header", "data"),
    [
        (tensor_header([2**40]), b""),
        (tensor_header([2**62, 4, 4]), b""),
        (tensor_header([-1]), b""),
        (tensor_header([1], "F31", 4), bytes(4)),
        (tensor_header([1], end=4), bytes(3)),
        (tensor_header([1], end=4), bytes(5)),
        ("[" * 10_000, b""),
        ('{"__metadata__": {"pivl-distill": "' + "[" * 10_000 + '"}}', b""),
        ('{"__metadata__": {"pivl-distill": "[]"}}', b""),
        ('{"__metadata__": {"pivl-distill": "7"}}', b""),
    ],
)
def test_absurd_headers_are_refused(tmp_path, header, data):
    write_raw(tmp_path / "file.safetensors", header, data)
    with pytest.raises(PivlError, match="is not a student"):
        load_tensors(tmp_path / "file.safetensors", "student")
    assert is_foreign(tmp_path / "file.safetensors") in (True, False)


@pytest.mark.parametrize("length", [0, 1, 10**9, 2**63, 2**64 - 1])
def test_length_of_the_header_is_checked(tmp_path, length):
    (tmp_path / "file").write_bytes(struct.pack("<Q", length) + b"{")
    with pytest.raises(PivlError, match="is not a student: "):
        load_tensors(tmp_path / "file", "student")


def test_files_larger_than_the_memory_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "file.safetensors"
    with path.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(
        PivlError, match=r"has 1,048,576\.0 MiB, but such a file has at most 32,768"
    ):
        load_tensors(path, "student")
    save_tensors(path, "student", {"weight": torch.zeros(100)}, {})
    monkeypatch.setattr(tensors, "memory_bytes", lambda: 300)
    with pytest.raises(PivlError, match="more than the memory of this machine"):
        load_tensors(path, "student")


@pytest.mark.parametrize("size", [None, 3, [64], [64, 32, 1], [0, 32], [64.0, 32], [10**6, 10**6]])
def test_absurd_input_sizes_are_refused(tmp_path, size):
    save_tensors(tmp_path / "file", "student", {}, {"size_hw": size})
    metadata = load_tensors(tmp_path / "file", "student")[2]
    with pytest.raises(PivlError, match=r"has the input size .* Make it again"):
        _ = metadata.size_hw
    save_tensors(tmp_path / "file", "student", {}, {"size_hw": [64, 32]})
    assert load_tensors(tmp_path / "file", "student")[2].size_hw == (64, 32)


def test_odd_formats_and_kinds_are_quoted_and_cut(tmp_path):
    save_tensors(tmp_path / "file", "x\n" * 100, {}, {})
    with pytest.raises(PivlError, match=r"is not a student, but a 'x\\nx.*…\.$") as raised:
        load_tensors(tmp_path / "file", "student")
    assert len(str(raised.value).splitlines()) == 1


def test_errors_about_contents_name_the_file(tmp_path):
    path = tmp_path / "file"
    for message in ("Unknown network 'x'.", f"{path}: Unknown network 'x'."):
        with (
            pytest.raises(PivlError, match=rf"^{path}: Unknown network 'x'\.$"),
            tensors.damage_named(path, "student"),
        ):
            raise PivlError(message)


def test_axes_without_values_must_be_short(tmp_path):
    save_tensors(tmp_path / "file", "student", {"weight": torch.zeros(2**40, 0)}, {})
    with pytest.raises(PivlError, match=r"is damaged: 'weight' has the shape \[1099511627776, 0\]"):
        load_tensors(tmp_path / "file", "student")

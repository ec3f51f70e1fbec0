"""Look into an ONNX file before a library parses it: its size, its tensors, the files it names.

ONNX Runtime reads tensors from any file that the graph names ("external data"), and allocates them
by their declared shapes. This module walks over the messages of the file (protobuf, onnx.proto3)
without decoding weights, so that it needs neither the onnx package nor memory.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pivl_distill.errors import PivlError
from pivl_distill.storage.limits import MAX_ONNX_BYTES, MAX_ONNX_DEPTH, MAX_ONNX_FIELDS
from pivl_distill.storage.paths import check_relative, is_inside, shown
from pivl_distill.storage.readers import check_size

_VARINT, _BYTES = 0, 2
_FIXED = {1: 8, 5: 4}
"""Wire types of protobuf, and the bytes of those of fixed size."""

_TENSOR = "tensor"
_CHILDREN: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: _TENSOR, 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: _TENSOR, 6: "graph", 10: _TENSOR, 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: _TENSOR, 2: _TENSOR},
}
"""Messages that contain tensors: field number → kind of the message in it."""
_DIMS, _NAME, _EXTERNAL = 1, 8, 13
_KEY, _VALUE = 1, 2
_LARGEST_INT64 = 2**63 - 1


_Data = bytes | mmap.mmap


class _Field(NamedTuple):
    """A field of a message: its number and type, and where its value is."""

    number: int
    wire_type: int
    start: int
    end: int


@dataclass(frozen=True)
class _Message:
    """A message in the bytes `start` to `end` of the file."""

    kind: str
    start: int
    end: int
    depth: int


@dataclass(frozen=True)
class _Tensor:
    """What a tensor declares, and the bytes it takes in the file."""

    name: str
    values: int
    stored_bytes: int
    location: str | None
    """File that holds its values; None: this one."""


@dataclass(frozen=True)
class OnnxFile:
    """An ONNX file whose contents were read, for example to verify them."""

    path: Path
    content: bytes


def check_onnx_file(path: Path, *, external_data: bool = False) -> None:
    """Check an ONNX file like `check_onnx`; raises PivlError also if there is no such file."""
    if not path.is_file():
        raise PivlError(f"There is no ONNX file at '{path}'.")
    if not check_size(path, MAX_ONNX_BYTES):
        raise _not_onnx(path, "it is empty")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        check_onnx(path, data, external_data=external_data)


def check_onnx(path: Path, data: bytes | mmap.mmap, *, external_data: bool = False) -> None:
    """Check the contents `data` of the ONNX file at `path` before they are parsed.

    With `external_data` tensors may be in other files of the same folder. Raises PivlError if the
    file is no protobuf, if a tensor declares more values than are stored, or if the file names
    another one that is outside its folder or, without `external_data`, any other.
    """
    try:
        for tensor in _tensors(data):
            _check_tensor(path, tensor, external_data=external_data)
    except ValueError as error:
        raise _not_onnx(path, str(error)) from error


def _not_onnx(path: Path, reason: str) -> PivlError:
    return PivlError(f"ONNX libraries cannot load '{path}'; it is not an ONNX file: {reason}.")


def _check_tensor(path: Path, tensor: _Tensor, *, external_data: bool) -> None:
    stored_bytes = tensor.stored_bytes
    if tensor.location is not None:
        if not external_data:
            raise PivlError(
                f"'{path}' keeps the tensor {shown(tensor.name)} in another file,"
                f" {shown(tensor.location)}; an exported network is a single file."
            )
        stored_bytes = _external_size(path, tensor.location)
    if tensor.values > 2 * stored_bytes:  # the smallest type has four bits
        raise PivlError(
            f"'{path}' declares {tensor.values:,} values for the tensor {shown(tensor.name)} but"
            f" stores {stored_bytes:,} bytes; the file is damaged."
        )


def _external_size(path: Path, location: str) -> int:
    """Return the size of the file `location`; raises PivlError unless it is beside `path`."""
    try:
        check_relative(location)
    except ValueError as error:
        raise PivlError(f"'{path}' keeps a tensor in another place: {error}.") from error
    file = path.parent / location
    if not is_inside(file, path.parent):
        raise PivlError(
            f"'{path}' keeps a tensor in {shown(location)}, a link to outside of its folder."
        )
    return check_size(file, _LARGEST_INT64)


def _tensors(data: _Data) -> Iterator[_Tensor]:
    """Yield all tensors of a model; raises ValueError if the data is not one."""
    budget = iter(range(MAX_ONNX_FIELDS))
    messages = [_Message("model", 0, len(data), 0)]
    while messages:
        message = messages.pop()
        if message.depth > MAX_ONNX_DEPTH:
            raise ValueError(f"messages are nested deeper than {MAX_ONNX_DEPTH} levels")
        if message.kind == _TENSOR:
            yield _read_tensor(data, message, budget)
            continue
        children = _CHILDREN[message.kind]
        for field in _fields(data, message.start, message.end, budget):
            if field.number in children and field.wire_type == _BYTES:
                kind = children[field.number]
                messages.append(_Message(kind, field.start, field.end, message.depth + 1))


def _read_tensor(data: _Data, message: _Message, budget: Iterator[int]) -> _Tensor:
    name, location, dims = "", None, list[int]()
    for field in _fields(data, message.start, message.end, budget):
        if field.number == _DIMS:
            dims += _varints(data, field.start, min(field.end, field.start + 10 * MAX_ONNX_DEPTH))
        elif field.number == _NAME and field.wire_type == _BYTES:
            name = _text(data, field)
        elif field.number == _EXTERNAL and field.wire_type == _BYTES:
            entry = {
                part.number: _text(data, part)
                for part in _fields(data, field.start, field.end, budget)
            }
            location = entry.get(_VALUE, "") if entry.get(_KEY) == "location" else location
        if len(dims) > MAX_ONNX_DEPTH or any(size > _LARGEST_INT64 for size in dims):
            raise ValueError(f"the tensor {shown(name)} has a negative size or too many axes")
    return _Tensor(name, math.prod(dims), message.end - message.start, location)


def _text(data: _Data, field: _Field) -> str:
    return bytes(data[field.start : field.end]).decode("utf-8", "replace")


def _varints(data: _Data, start: int, end: int) -> Iterator[int]:
    while start < end:
        value, start = _varint(data, start, end)
        yield value


def _fields(data: _Data, start: int, end: int, budget: Iterator[int]) -> Iterator[_Field]:
    """Yield the fields of a message; each one is taken from the budget of the whole file."""
    while start < end:
        if next(budget, None) is None:
            raise ValueError(f"its graph has more than {MAX_ONNX_FIELDS:,} fields")
        key, start = _varint(data, start, end)
        number, wire_type = key >> 3, key & 7
        if wire_type == _VARINT:
            stop = _varint(data, start, end)[1]
        elif wire_type == _BYTES:
            length, start = _varint(data, start, end)
            stop = start + length
        elif wire_type in _FIXED:
            stop = start + _FIXED[wire_type]
        else:
            raise ValueError(f"a field has the unknown type {wire_type}")
        if stop > end or not number:
            raise ValueError("a field is longer than its message")
        yield _Field(number, wire_type, start, stop)
        start = stop


def _varint(data: _Data, start: int, end: int) -> tuple[int, int]:
    """Return the variable-length integer at `start`, and where it ends."""
    value = 0
    for shift, position in zip(range(0, 70, 7), range(start, end)):  # noqa: B905  (the shorter)
        value |= (data[position] & 0x7F) << shift
        if data[position] < 0x80:
            return value, position + 1
    raise ValueError("a number does not end")

"""Tensor files: safetensors with a format number, a kind and metadata. Nothing is ever unpickled.

Every tensor file of this package (prompt banks, teachers, students, embeddings, start weights)
holds named tensors, its kind and metadata as JSON, so that it can be used without any other file.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor

from pivl_distill.distributed import process_group
from pivl_distill.errors import PivlError, one_line
from pivl_distill.storage.files import require_finite, write_bytes
from pivl_distill.storage.limits import (
    GIB,
    MAX_FEATURE_DIM,
    MAX_INPUT_PIXELS,
    MAX_TENSOR_FILE_BYTES,
    MAX_TENSOR_HEADER_BYTES,
    memory_bytes,
)
from pivl_distill.storage.paths import shown
from pivl_distill.storage.readers import check_size, parse_json

FORMAT = 2
"""Format number of the files; a file with another one is refused."""

_ENTRY = "pivl-distill"
"""The only metadata entry: safetensors writes several in random order, but equal contents should
give equal bytes."""

_HEADER_START = struct.Struct("<Q")
"""A safetensors file begins with the length of its header."""

_READ_ERRORS = (
    SafetensorError, OSError, ValueError, TypeError, LookupError, ArithmeticError, RuntimeError,
)  # fmt: skip
"""What safetensors and torch raise about damaged headers, unknown types and absurd shapes."""

_REMEDIES = {
    "prompt bank": "make it again with `pivl-distill teach`",
    "teacher": "make it again with `pivl-distill teach`",
    "teacher embeddings": "make it again with `pivl-distill teach`",
    "student": "make it again with `pivl-distill student`",
    "training progress": "start a new run, or resume this one with the version that started it",
}
"""What to do about a file of another format, by kind."""


_NATIVE_BYTES = (2, 4, 8)
"""Sizes of the number formats that torch can examine; smaller ones are converted first."""


class Metadata(dict[str, Any]):
    """The metadata of a file; accessing a missing key raises PivlError."""

    def __init__(self, path: Path, metadata: dict[str, Any]) -> None:
        super().__init__(metadata)
        self.path = path

    def __missing__(self, name: str) -> Any:
        raise PivlError(
            f"The metadata of {self.path} lacks '{name}': another version of pivl-distill wrote it."
            " Make it again."
        )

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width of a network's input; raises PivlError if they are absurd."""
        size = self["size_hw"]
        plain = isinstance(size, list) and len(size) == 2 and all(type(n) is int for n in size)
        if not plain or min(size) < 1 or size[0] * size[1] > MAX_INPUT_PIXELS:
            raise PivlError(
                f"The metadata of {self.path} has the input size {shown(size)}, not height and"
                " width of an image. Make it again."
            )
        return size[0], size[1]


@contextmanager
def damage_named(path: Path, kind: str) -> Iterator[None]:
    """Turn what damaged contents of a file raise inside the block into a PivlError about it.

    A PivlError that does not name the file, such as one about an unknown network, gets its name.
    """
    try:
        yield
    except PivlError as error:
        if str(path) in str(error):
            raise
        raise PivlError(f"{path}: {error}") from error
    except (
        TypeError, ValueError, LookupError, ArithmeticError, RuntimeError, AttributeError
    ) as error:  # fmt: skip
        remedy = _REMEDIES.get(kind, "make it again")
        raise PivlError(
            f"{path}, a file of kind '{kind}', is damaged: {one_line(error)}; {remedy}."
        ) from error


def save_tensors(
    path: Path, kind: str, tensors: dict[str, Tensor], metadata: dict[str, Any]
) -> None:
    """Write `tensors` and JSON `metadata` atomically as a file of this `kind`; only rank 0 writes.

    Equal contents give equal bytes. Raises PivlError, and writes nothing, if a value is not finite.
    """
    if process_group.rank():
        return
    tensors = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    if broken := find_nonfinite_tensor(tensors):
        raise PivlError(
            f"The {kind} was not written to '{path}': {broken}. Training or the network has"
            " diverged; lower the learning rate, or compute with precision float32."
        )
    require_finite(metadata, path)
    metadata = {"format": FORMAT, "kind": kind, "metadata": metadata}
    write_bytes(path, to_safetensors(tensors, {_ENTRY: json.dumps(metadata)}))


def check_tensor_file(path: Path) -> int:
    """Return the bytes of a file of tensors; raise PivlError if it is too large to be read here."""
    size = check_size(path, MAX_TENSOR_FILE_BYTES)
    if size > (memory := memory_bytes() or size):
        raise PivlError(
            f"{path} has {size / GIB:.1f} GiB, more than the memory of this machine,"
            f" {memory / GIB:.1f} GiB; use a larger machine."
        )
    return size


def check_tensor_header(path: Path, size: int, expected: str) -> None:
    """Raise PivlError if the header of a safetensors file of `size` bytes is absurdly long.

    The rest of the header is checked by safetensors: tensors must fill the file exactly. `expected`
    says what the file should be.
    """
    with path.open("rb") as file:
        start = file.read(_HEADER_START.size)
    length = _HEADER_START.unpack(start)[0] if len(start) == _HEADER_START.size else 0
    if not 0 < length <= min(size - _HEADER_START.size, MAX_TENSOR_HEADER_BYTES):
        raise PivlError(
            f"{path} is not a {expected}: it declares a header of {length:,} bytes, but has"
            f" {size:,} bytes in all, and a header has at most {MAX_TENSOR_HEADER_BYTES:,}."
        )


def find_nonfinite_tensor(tensors: Mapping[str, Tensor]) -> str | None:
    """Return a phrase about the first tensor with a NaN or an infinity; None if all are finite.

    >>> import torch
    >>> find_nonfinite_tensor({"a": torch.zeros(2), "b": torch.tensor([1, float("nan")])})
    "the tensor 'b' is not finite (1 of 2 values)"
    """
    for name, tensor in tensors.items():
        if not (tensor.is_floating_point() or tensor.is_complex()) or tensor.is_meta:
            continue
        native = tensor.is_complex() or tensor.element_size() in _NATIVE_BYTES
        finite = (tensor if native else tensor.float()).isfinite()
        if not finite.all():
            broken = int(finite.logical_not().sum())
            return f"the tensor '{name}' is not finite ({broken:,} of {tensor.numel():,} values)"
    return None


def check_shape(path: Path, name: str, tensor: Tensor) -> None:
    """Raise PivlError if a tensor without values claims a long axis, for which others are made."""
    if not tensor.numel() and max(tensor.shape, default=0) > MAX_FEATURE_DIM:
        raise PivlError(f"{path} is damaged: {shown(name)} has the shape {list(tensor.shape)}.")


class Form:
    """Number of axes and possible types of a tensor."""

    def __init__(self, axes: int, *dtypes: torch.dtype) -> None:
        self.axes, self.dtypes = axes, dtypes


def check_tensors(tensors: Mapping[str, Tensor], forms: Mapping[str, Form]) -> None:
    """Raise ValueError if one of the tensors in `forms` is missing or of another form."""
    if missing := sorted(forms.keys() - tensors.keys()):
        raise ValueError(f"it lacks {missing}")
    for name, form in forms.items():
        tensor = tensors[name]
        if tensor.ndim != form.axes or tensor.dtype not in form.dtypes:
            raise ValueError(f"{name} is {tensor.dtype} {list(tensor.shape)}")


def is_foreign(path: Path) -> bool:
    """Whether the extension or metadata of a file shows that `save_tensors` did not write it."""
    if path.suffix != ".safetensors":
        return True
    try:
        return _ENTRY not in _read_metadata(path)
    except (PivlError, *_READ_ERRORS):
        return False  # `load_tensors` raises a PivlError about it


def load_tensors(path: Path, *kinds: str) -> tuple[str, dict[str, Tensor], Metadata]:
    """Return kind, tensors and metadata of a file of one of `kinds`.

    Raises PivlError if it is missing, damaged, of another kind or format, or not finite.
    """
    expected = " or ".join(kinds)
    if not path.is_file():
        found = f"{path} is not a {expected}, but a folder" if path.is_dir() else None
        raise PivlError(f"{found or f'No {expected} at {path}'}.")
    try:
        entry = _read_metadata(path, expected).get(_ENTRY)
        metadata = {} if entry is None else parse_json(entry)
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except _READ_ERRORS as error:
        raise PivlError(f"{path} is not a {expected}: {one_line(error)}") from error
    for name, tensor in tensors.items():
        check_shape(path, name, tensor)
    if not metadata or not isinstance(metadata, dict):
        raise PivlError(f"{path} is not a {expected}: it was not written by pivl-distill.")
    kind, version = str(metadata.get("kind")), metadata.get("format")
    remedy = _REMEDIES.get(kind) or _REMEDIES.get(kinds[0], "make it again")
    if version != FORMAT:
        age = "an earlier" if isinstance(version, int) and version < FORMAT else "another"
        raise PivlError(
            f"{path} was written by {age} version of pivl-distill (format {shown(version)}, not"
            f" {FORMAT});"
            f" {remedy}."
        )
    if kind not in kinds:
        found = kind if kind in _REMEDIES else shown(kind)
        raise PivlError(f"{path} is not a {expected}, but a {found}.")
    if not isinstance(details := metadata.get("metadata"), dict):
        raise PivlError(f"{path} is a damaged {kind}: it has no metadata.")
    if broken := find_nonfinite_tensor(tensors):
        raise PivlError(f"{path} is a broken {kind}: {broken}; {remedy}.")
    return kind, tensors, Metadata(path, details)


def _read_metadata(path: Path, expected: str = "tensor file") -> dict[str, str]:
    """Return the metadata of a safetensors file; raises PivlError or one of `_READ_ERRORS`."""
    check_tensor_header(path, check_tensor_file(path), expected)
    with safe_open(path, framework="pt") as file:
        return file.metadata() or {}

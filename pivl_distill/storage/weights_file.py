"""Weights files of others (.safetensors, .pth, .pt, TorchScript), read without running their code.

safetensors files hold tensors only. `torch.load` runs with `weights_only`. TorchScript archives
could run code of their own while they are opened, in methods called `__setstate__`: an archive that
has one is refused, and of the others only the tensors are kept. What a file unpacks to is limited
before it is unpacked.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from pivl_distill.errors import PivlError, one_line
from pivl_distill.storage.limits import MAX_ARCHIVE_EXCESS, MAX_SHARED_TENSORS, MIB
from pivl_distill.storage.pickled import find_obstacle, saving_command
from pivl_distill.storage.tensors import (
    check_shape,
    check_tensor_file,
    check_tensor_header,
    find_nonfinite_tensor,
)
from pivl_distill.storage.wrappers import WRAPPERS, unwrap, without_prefixes

_RUNS_WHEN_OPENED = (b"__setstate__", b"__torch__.torch.classes")
"""In TorchScript: a method that is called when the archive is opened, and classes in C++."""


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Return the state dict in a weights file, without its wrappers and prefixes.

    Raises PivlError if there is none, if reading it could run code, if it unpacks to much more than
    its size, or if a weight is not finite.
    """
    if not path.is_file():
        raise PivlError(f"There are no weights at '{path}'.")
    size = check_tensor_file(path)
    state = without_prefixes(unwrap(_read_content(path, size), path))
    _check_tensors(path, size, state)
    if broken := find_nonfinite_tensor(state):
        raise PivlError(
            f"The weights in '{path}' are broken: {broken}. Use a checkpoint from before that"
            " training diverged."
        )
    return state


def _read_content(path: Path, size: int) -> Any:
    if path.suffix == ".safetensors":
        check_tensor_header(path, size, "weights file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if zipfile.is_zipfile(path) and _check_archive(path, size):
            return dict(torch.jit.load(path, map_location="cpu").state_dict())
        return torch.load(path, map_location="cpu", weights_only=True)
    except PivlError:
        raise
    except pickle.UnpicklingError as error:
        raise _refusal(path, str(error)) from error
    except Exception as error:  # torch, safetensors and zipfile each have their own
        raise PivlError(f"'{path}' is not a readable weights file: {one_line(error)}") from error


def _refusal(path: Path, message: str) -> PivlError:
    """Return the error about a file that torch refuses with `message`."""
    obstacle = find_obstacle(path, message)
    if obstacle is None:
        return PivlError(
            f"'{path}' is not a readable weights file: it is neither safetensors nor TorchScript,"
            " nor a state dict as torch.save writes it."
        )
    return PivlError(
        f"'{path}' is not a readable weights file: it holds more than tensors ({obstacle}), and"
        " loading that could run code. If you trust the file, save its state dict alone:\n"
        f"  {saving_command(path, obstacle, WRAPPERS)}\n"
        "and name the new file."
    )


def _check_archive(path: Path, size: int) -> bool:
    """Check what a zip archive unpacks to; return whether it is TorchScript."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        unpacked = sum(entry.file_size for entry in entries)
        if unpacked > size + MAX_ARCHIVE_EXCESS:
            raise PivlError(
                f"'{path}' has {size / MIB:,.1f} MiB but unpacks to {unpacked / MIB:,.1f} MiB;"
                " torch.save writes no such file."
            )
        torchscript = any(entry.filename.endswith("/constants.pkl") for entry in entries)
        if torchscript:
            for entry in entries:
                _check_code(path, archive, entry)
    return torchscript


def _check_code(path: Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> None:
    """Raise PivlError if an entry of a TorchScript archive could run code when it is opened."""
    if not entry.filename.endswith((".py", ".pkl")):
        return  # the bytes of a tensor
    if entry.file_size > MAX_ARCHIVE_EXCESS:
        raise PivlError(f"'{path}' has code of {entry.file_size / MIB:,.1f} MiB; it is damaged.")
    content = archive.read(entry)
    if any(sign in content for sign in _RUNS_WHEN_OPENED):
        raise PivlError(
            f"'{path}' is a TorchScript archive with code that runs when it is opened"
            f" ({entry.filename}); get the weights as .safetensors, or as a state dict."
        )


def _check_tensors(path: Path, size: int, state: Mapping[str, Tensor]) -> None:
    """Raise PivlError unless all tensors are plain and together not much larger than the file."""
    total = 0
    for name, tensor in state.items():
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
            raise PivlError(
                f"'{path}': {name} is a sparse, quantised or empty tensor; save plain ones."
            )
        check_shape(path, name, tensor)
        total += tensor.numel() * tensor.element_size()
    if total > MAX_SHARED_TENSORS * size:
        raise PivlError(
            f"'{path}' has {size / MIB:,.1f} MiB, but its tensors claim {total / MIB:,.1f} MiB:"
            " their shapes exceed their contents. Save the tensors again with .contiguous()."
        )

"""Published CLIP weights as one state dict: a local file or a Hugging Face repository.

Files are OpenAI's TorchScript archives or open_clip's checkpoints. Loading never runs code from a
file: safetensors files hold tensors only, `torch.load` runs with `weights_only`, and
`torch.jit.load` neither imports nor calls Python; only the tensors of an archive are kept.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.transformer import QuickGELU
from safetensors.torch import load_file
from torch import Tensor

from pivl_distill.errors import PivlError

HUB = "hf-hub:"
_OPENAI_ONLY = ("input_resolution", "context_length", "vocab_size")
"""Entries that are only in OpenAI's archives."""


@dataclass(frozen=True)
class ClipWeights:
    """float32 tensors by open_clip's names, and whether the model uses QuickGELU."""

    state: dict[str, Tensor]
    quick_gelu: bool


def read_hub(repository: str) -> ClipWeights:
    """Download the weights of an open_clip repository, `hf-hub:<organisation>/<name>`."""
    try:
        clip = open_clip.create_model(repository, require_pretrained=True)
    except Exception as error:  # the download libraries raise many types
        raise PivlError(
            f"Could not load open_clip weights from {repository} ({error}). Check the name and"
            " the network, or download the file and set clip.weights to it."
        ) from error
    quick = any(isinstance(module, QuickGELU) for module in clip.modules())
    return ClipWeights(clip.state_dict(), quick)


def read_file(path: Path) -> ClipWeights:
    """Read OpenAI's or open_clip's weights from a local file."""
    state = read_state_dict(path)
    openai = [key for key in _OPENAI_ONLY if key in state]
    kept = {key: value.float() for key, value in state.items() if key not in openai}
    return ClipWeights(kept, quick_gelu=bool(openai))


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Return the state dict in a .safetensors, .pt, .pth or TorchScript file.

    The prefix `module.` (DataParallel) is removed. Raises PivlError for anything else.
    """
    if not path.is_file():
        raise PivlError(f"There are no weights at '{path}'.")
    try:
        content: Any = _read_content(path)
    except Exception as error:  # torch and safetensors each have their own
        raise PivlError(f"'{path}' is not a readable weights file: {error}") from error
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    tensors = isinstance(content, dict) and all(isinstance(v, Tensor) for v in content.values())
    if not tensors or not content:
        raise PivlError(f"'{path}' holds no state dict, which maps names to tensors.")
    return {key.removeprefix("module."): value for key, value in content.items()}


def _read_content(path: Path) -> Any:
    if path.suffix == ".safetensors":
        return load_file(path)
    if _is_torchscript(path):
        return dict(torch.jit.load(path, map_location="cpu").state_dict())
    return torch.load(path, map_location="cpu", weights_only=True)


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())

"""Published CLIP weights as one state dict: a local file or a Hugging Face repository.

Files are OpenAI's TorchScript archives or open_clip's checkpoints. Nothing is unpickled:
safetensors hold tensors alone, `torch.load` is held to tensors, and a TorchScript archive is opened
by `torch.jit.load`, whose reader builds TorchScript's own types from the archive and imports or
calls no Python; of the result only the tensors are kept and no method is run.
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
"""Numbers among the tensors of OpenAI's archives; nobody else writes them."""


@dataclass(frozen=True)
class ClipWeights:
    """float32 tensors under open_clip's names, and whether they were made with QuickGELU."""

    state: dict[str, Tensor]
    quick_gelu: bool


def read_hub(repository: str) -> ClipWeights:
    """The weights of an open_clip repository, `hf-hub:<organisation>/<name>`."""
    try:
        clip = open_clip.create_model(repository, require_pretrained=True)
    except Exception as error:  # whatever the download libraries raise
        raise PivlError(
            f"No open_clip weights could be had from {repository} ({error}). Check the name and"
            " the network, or download the file and set clip.weights to it."
        ) from error
    quick = any(isinstance(module, QuickGELU) for module in clip.modules())
    return ClipWeights(clip.state_dict(), quick)


def read_file(path: Path) -> ClipWeights:
    """OpenAI's or open_clip's weights in a local file."""
    state = read_state_dict(path)
    openai = [key for key in _OPENAI_ONLY if key in state]
    kept = {key: value.float() for key, value in state.items() if key not in openai}
    return ClipWeights(kept, quick_gelu=bool(openai))


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The state dict in a .safetensors, a .pt/.pth or a TorchScript file, without `module.`."""
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
        raise PivlError(f"'{path}' holds no state dict: names with a tensor each.")
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

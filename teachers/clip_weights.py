"""Published CLIP weights as one state dict: a local file or a Hugging Face repository.

Files are OpenAI's TorchScript archives or checkpoints of open_clip and of OpenAI's code.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import open_clip
from open_clip.transformer import QuickGELU
from torch import Tensor

from pivl_distill.errors import PivlError
from pivl_distill.storage.weights_file import read_state_dict

HUB = "hf-hub:"
_OPENAI_ONLY = ("input_resolution", "context_length", "vocab_size")
"""Entries that are only in OpenAI's archives."""


@dataclass(frozen=True)
class ClipWeights:
    """float32 tensors by open_clip's names, and whether the model uses QuickGELU."""

    state: dict[str, Tensor]
    quick_gelu: bool | None
    """None if the file does not say so."""


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
    return ClipWeights(kept, quick_gelu=True if openai else None)

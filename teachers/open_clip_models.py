"""Any open_clip ResNet or ViT with its published weights, weights from a file, or random ones."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import open_clip
import torch
from open_clip.model import CLIP, resize_pos_embed, resize_text_pos_embed
from torch import Tensor

from pivl_distill.errors import PivlError
from pivl_distill.storage.state_dict import load_matching_state
from teachers.clip import Clip, make_clip, with_weights_hash
from teachers.clip_weights import HUB, ClipWeights, read_file, read_hub
from teachers.image_encoders import ViTOptions
from teachers.quick_gelu import QUICKGELU_SUFFIX, Activation, needs_quick_gelu
from teachers.text_encoder import Tokenizer

_VISUAL_POSITIONS, _POSITIONS = "visual.positional_embedding", "positional_embedding"


def is_pretrained_tag(name: str, weights: str) -> bool:
    """Whether open_clip downloads `weights` of CLIP `name`."""
    names = (name, name.removesuffix(QUICKGELU_SUFFIX))
    return weights.startswith(HUB) or any(open_clip.get_pretrained_cfg(n, weights) for n in names)


def architecture_name(name: str, weights: str) -> str:
    """Return the architecture that the tag `weights` needs: OpenAI's weights need QuickGELU."""
    if open_clip.get_pretrained_cfg(name, weights).get("quick_gelu"):
        return f"{name.removesuffix(QUICKGELU_SUFFIX)}{QUICKGELU_SUFFIX}"
    return name


def load_open_clip(
    name: str,
    weights: str,
    size_hw: tuple[int, int],
    options: ViTOptions,
    activation: Activation = "auto",
) -> Clip:
    """Return open_clip model `name`.

    Args:
        name: of the architecture.
        weights: as in `load_clip`.
        size_hw: height and width of crops, in pixels.
        options: patch stride and camera embeddings of a ViT.
        activation: of weights in a file.
    """
    if weights == "embedded":
        raise PivlError(
            f"{name} is not embedded; set clip.weights to an open_clip tag such as 'openai',"
            " to a Hugging Face id hf-hub:…, to a local file, or to 'none' for random weights."
        )
    if weights.startswith(HUB) or Path(weights).is_file():
        published = read_hub(weights) if weights.startswith(HUB) else read_file(Path(weights))
        name = _named_by_activation(name, weights, published, activation)
        clip = _build_open_clip(name, None)
        _load_weights(clip, name, weights, published)
    else:
        name = architecture_name(name, weights)
        try:
            clip = _build_open_clip(name, None if weights == "none" else weights)
        except (RuntimeError, OSError) as error:
            raise PivlError(
                f"Could not load {name} with weights '{weights}': {error}. Name one of"
                f" {open_clip.list_pretrained_tags_by_model(name)}, hf-hub:…, a local file, or"
                " 'none'."
            ) from error
    return with_weights_hash(make_clip(name, clip, Tokenizer(), size_hw, 16, options))


def _named_by_activation(
    name: str, weights: str, published: ClipWeights, activation: Activation
) -> str:
    """Return the architecture with the activation that weights in a file, or of a hub, need."""
    quick = published.quick_gelu
    if activation != "auto":
        quick = activation == "quick_gelu"
        name = name.removesuffix(QUICKGELU_SUFFIX)
    elif quick is None:
        quick = needs_quick_gelu(name, Path(weights), published.state)
    return f"{name.removesuffix(QUICKGELU_SUFFIX)}{QUICKGELU_SUFFIX}" if quick else name


def _build_open_clip(name: str, tag: str | None) -> CLIP:
    """Return the open_clip model at its own image size; the encoders resample its positions."""
    device = torch.get_default_device()
    with _without_open_clip_warnings():
        if name in open_clip.list_models():
            return open_clip.create_model(name, pretrained=tag, device=device)
        base = name.removesuffix(QUICKGELU_SUFFIX)
        return open_clip.create_model(base, pretrained=tag, device=device, force_quick_gelu=True)


@contextmanager
def _without_open_clip_warnings() -> Iterator[None]:
    """Suppress open_clip's warning about random weights, which are replaced right afterwards."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _load_weights(clip: CLIP, name: str, weights: str, published: ClipWeights) -> None:
    remedy = "Set clip.name to the model it was made for."
    state = resize_positions(published.state, clip)
    load_matching_state(clip, state, weights, name, remedy)


def resize_positions(state: dict[str, Tensor], clip: CLIP) -> dict[str, Tensor]:
    """Return a state dict whose position tables have the lengths of `clip`, resized by open_clip.

    Tables of another width, and of images that are not square, stay as they are.
    """
    resized, own = dict(state), clip.state_dict()
    for key, resize in ((_VISUAL_POSITIONS, resize_pos_embed), (_POSITIONS, resize_text_pos_embed)):
        table, target = state.get(key), own.get(key)
        if table is None or target is None or table.shape[1:] != target.shape[1:]:
            continue
        if key == _VISUAL_POSITIONS and math.isqrt(len(table) - 1) ** 2 != len(table) - 1:
            continue
        resize(resized, clip)
    return resized

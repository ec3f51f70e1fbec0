"""Any open_clip ResNet or ViT with its published weights, weights from a file, or random ones."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import open_clip
import torch
from open_clip.model import CLIP

from pivl_distill.errors import PivlError
from pivl_distill.storage.state_dict import load_matching_state
from teachers.clip import Clip, make_clip, with_weights_hash
from teachers.clip_weights import HUB, ClipWeights, read_file, read_hub
from teachers.image_encoders import ViTOptions
from teachers.text_encoder import Tokenizer

QUICKGELU_SUFFIX = "-quickgelu"
"""Suffix of open_clip architectures with QuickGELU, the activation of OpenAI's weights."""


def is_pretrained_tag(name: str, weights: str) -> bool:
    """Whether open_clip downloads `weights` of CLIP `name`."""
    names = (name, name.removesuffix(QUICKGELU_SUFFIX))
    return weights.startswith(HUB) or any(open_clip.get_pretrained_cfg(n, weights) for n in names)


def architecture_name(name: str, weights: str) -> str:
    """Return the architecture that the tag `weights` needs: OpenAI's weights need QuickGELU."""
    if open_clip.get_pretrained_cfg(name, weights).get("quick_gelu"):
        return f"{name.removesuffix(QUICKGELU_SUFFIX)}{QUICKGELU_SUFFIX}"
    return name


def load_open_clip(name: str, weights: str, size_hw: tuple[int, int], options: ViTOptions) -> Clip:
    """Return open_clip model `name`; `weights` as in `load_clip`."""
    if weights == "embedded":
        raise PivlError(
            f"{name} is not embedded; set clip.weights to an open_clip tag such as 'openai',"
            " to a Hugging Face id hf-hub:…, to a local file, or to 'none' for random weights."
        )
    if weights.startswith(HUB) or Path(weights).is_file():
        published = read_hub(weights) if weights.startswith(HUB) else read_file(Path(weights))
        name = (
            f"{name.removesuffix(QUICKGELU_SUFFIX)}{QUICKGELU_SUFFIX}"
            if published.quick_gelu
            else name
        )
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
    load_matching_state(clip, published.state, weights, name, remedy)

"""Loading a CLIP by name: an embedded tiny one or any open_clip ResNet or ViT."""

from __future__ import annotations

import open_clip

from pivl_distill.errors import unknown_name
from teachers.clip import Clip
from teachers.image_encoders import ViTOptions
from teachers.open_clip_models import load_open_clip
from teachers.quick_gelu import QUICKGELU_SUFFIX, Activation
from teachers.tiny_clip import (
    TINY,
    TINY_DIM,
    load_tiny_clip,
)


def load_clip(
    name: str,
    weights: str,
    size_hw: tuple[int, int],
    options: ViTOptions = ViTOptions(),  # noqa: B008  (frozen)
    activation: Activation = "auto",
) -> Clip:
    """Return CLIP `name` with `weights` for crops of `size_hw` pixels.

    Args:
        name: a tiny model, or an architecture of open_clip.
        weights: "embedded" (tiny models), an open_clip tag such as "openai", a Hugging Face id
            "hf-hub:…", a local file, or "none" for random weights.
        size_hw: height and width of crops, in pixels.
        options: patch stride and camera embeddings of a ViT.
        activation: of weights in a file; "auto" finds it out.

    Raises:
        PivlError: The name is unknown, or the weights cannot be loaded.
    """
    if name in TINY:
        return load_tiny_clip(name, weights, size_hw, options)
    known = open_clip.list_models()
    if name.removesuffix(QUICKGELU_SUFFIX) not in known:
        raise unknown_name("CLIP", name, [*TINY, *known])
    return load_open_clip(name, weights, size_hw, options, activation)


def joint_dim(name: str) -> int:
    """Return D, the dimension of the joint space of CLIP `name` and of its prompt banks."""
    if name in TINY:
        return TINY_DIM
    config = open_clip.get_model_config(name.removesuffix(QUICKGELU_SUFFIX))
    if config is None:
        raise unknown_name("CLIP", name, [*TINY, *open_clip.list_models()])
    dim: int = config["embed_dim"]
    return dim

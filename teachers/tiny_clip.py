"""The embedded tiny CLIPs: ordinary open_clip models with small configurations.

`tiny_rn` is shipped with weights, made by `teachers/pretrain.py`. On synthetic people it takes the
place that OpenAI's RN50 has on photographs; it has seen no photographs."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from open_clip.model import CLIP

from pivl_distill.errors import PivlError
from pivl_distill.storage.state_dict import load_matching_state
from pivl_distill.storage.tensors import damage_named, load_tensors, save_tensors
from teachers.clip import Clip, encoders_of, make_clip, make_image_encoder, with_weights_hash
from teachers.image_encoders import ViTOptions
from teachers.text_encoder import Tokenizer, used_token_ids
from teachers.tiny_vocabulary import vocabulary_texts

WEIGHTS_DIR = Path(__file__).parent / "weights"


TINY_SIZE_HW = (128, 64)


TINY_OUTPUT_STRIDE = 8


TINY_DIM = 96


TINY_KIND = "tiny CLIP"
BPE_TOKENS = 49_408
"""Tokens of CLIP's vocabulary, the most rows that a token table may have."""


_TINY_TEXT = {"context_length": 77, "width": 96, "heads": 4, "layers": 2}


TINY: dict[str, dict[str, Any]] = {
    "tiny_rn": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 12, "head_width": 48},
    "tiny_vit": {
        "image_size": TINY_SIZE_HW,
        "patch_size": 8,
        "width": 96,
        "layers": 4,
        "head_width": 32,
    },
}
"""Vision configurations of the embedded models, as open_clip names them."""


def build_tiny_clip(
    name: str,
    rows: list[int],
    options: ViTOptions = ViTOptions(),  # noqa: B008  (frozen)
) -> Clip:
    """Return tiny CLIP `name` with random weights and a token table of BPE ids `rows`."""
    text = {**_TINY_TEXT, "vocab_size": len(rows) + 1}
    clip = CLIP(TINY_DIM, vision_cfg=TINY[name], text_cfg=text)
    return make_clip(name, clip, Tokenizer(rows), TINY_SIZE_HW, TINY_OUTPUT_STRIDE, options)


def save_tiny_clip(clip: Clip, path: Path, rows: list[int], metadata: dict[str, Any]) -> None:
    """Write the weights in half precision, with the BPE ids `rows` and `metadata`."""
    state = {key: value.half() for key, value in encoders_of(clip).state_dict().items()}
    save_tensors(path, TINY_KIND, state, {"clip": clip.name, "rows": rows, **metadata})


def load_tiny_clip(name: str, weights: str, size_hw: tuple[int, int], options: ViTOptions) -> Clip:
    """Return tiny CLIP `name`; `weights` are "embedded", "none" or a file of `save_tiny_clip`."""
    if size_hw != TINY_SIZE_HW:
        raise PivlError(
            f"{name} reads crops of {TINY_SIZE_HW[0]}×{TINY_SIZE_HW[1]} only, not"
            f" {size_hw[0]}×{size_hw[1]}; use that data.size_hw or choose another CLIP."
        )
    if weights == "none":
        return with_weights_hash(build_tiny_clip(name, used_token_ids(vocabulary_texts()), options))
    path = WEIGHTS_DIR / f"{name}.safetensors" if weights == "embedded" else Path(weights)
    if not path.is_file():
        raise PivlError(
            f"No weights for {name} at {path}. Name a file, or make one with"
            f" `python -m teachers.pretrain --clip {name}`."
        )
    _, state, metadata = load_tensors(path, TINY_KIND)
    if metadata["clip"] != name:
        raise PivlError(f"{path} holds {metadata['clip']}, not {name}.")
    with damage_named(path, TINY_KIND):
        if len(rows := metadata["rows"]) > BPE_TOKENS:
            raise ValueError(f"it has {len(rows):,} token rows")
        clip = build_tiny_clip(name, rows)
    remedy = f"Make it again with `python -m teachers.pretrain --clip {name}`."
    load_matching_state(encoders_of(clip), state, path, name, remedy)
    if options != ViTOptions():
        image = make_image_encoder(name, clip.image.visual, size_hw, TINY_OUTPUT_STRIDE, options)
        clip = dataclasses.replace(clip, image=image)
    return with_weights_hash(clip)

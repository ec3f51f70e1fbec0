"""Loading a CLIP: the embedded tiny ones, or any open_clip ResNet or ViT with their weights.

The tiny models are ordinary open_clip `CLIP`s with small configurations. `tiny_rn` is shipped with
weights (made by `teachers/pretrain.py` on synthetic people); it plays the part that OpenAI's RN50
plays on photographs, on synthetic people only.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.model import CLIP
from open_clip.modified_resnet import ModifiedResNet
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

from pivl_distill.errors import PivlError, unknown_name
from pivl_distill.storage.tensors import load_tensors, save_tensors
from teachers.clip_weights import HUB, ClipWeights, describe_mismatch, read_file, read_hub
from teachers.image_encoders import ImageEncoder, ResNetImageEncoder, ViTImageEncoder, ViTOptions
from teachers.text_encoder import TextEncoder, Tokenizer, used_token_ids
from teachers.tiny_vocabulary import vocabulary_texts

WEIGHTS_DIR = Path(__file__).parent / "weights"
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
VIT_MEAN_STD = (0.5, 0.5, 0.5)
"""Mean and standard deviation that CLIP-ReID gives its ViT; its ResNet gets ImageNet's."""
CLIP_MEAN, CLIP_STD = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
"""Those that CLIP itself was trained with."""
TINY_SIZE_HW = (128, 64)
TINY_OUTPUT_STRIDE = 8
TINY_DIM = 96
KIND = "tiny CLIP"
QUICKGELU_SUFFIX = "-quickgelu"
"""What open_clip appends to the name of an architecture with OpenAI's activation."""
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
"""open_clip vision configurations of the embedded models."""


@dataclass(frozen=True)
class Clip:
    """A CLIP split into its encoders, and how its images are prepared."""

    name: str
    image: ImageEncoder
    text: TextEncoder
    logit_scale: Tensor
    size_hw: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    weights_sha256: str

    def with_clip_pixels(self) -> Clip:
        """The same encoders, fed as CLIP was rather than as CLIP-ReID feeds them."""
        return dataclasses.replace(self, mean=CLIP_MEAN, std=CLIP_STD)

    def to(self, device: torch.device) -> Clip:
        """Both encoders moved to a device, in place."""
        self.image.to(device)
        self.text.to(device)
        return self

    def freeze(self) -> Clip:
        """Put both encoders in evaluation mode without gradients: stage 1 trains tokens only."""
        for encoder in (self.image, self.text):
            encoder.eval().requires_grad_(False)
        return self


def load_clip(
    name: str,
    weights: str,
    size_hw: tuple[int, int],
    options: ViTOptions = ViTOptions(),  # noqa: B008  (frozen)
) -> Clip:
    """CLIP `name` with `weights` at crop size `size_hw`.

    `weights` is "embedded" (tiny models), an open_clip tag such as "openai", a Hugging Face id
    "hf-hub:…", a local file, or "none" for random weights. `options` are for ViTs. Raises PivlError
    for unknown names and for weights that cannot be had.
    """
    if name in TINY:
        return _load_tiny(name, weights, size_hw, options)
    known = open_clip.list_models()
    if name.removesuffix(QUICKGELU_SUFFIX) not in known:
        raise unknown_name("CLIP", name, [*TINY, *known])
    return _load_open_clip(name, weights, size_hw, options)


def is_pretrained_tag(name: str, weights: str) -> bool:
    """Whether `weights` of CLIP `name` are published ones, to be had from the network."""
    names = (name, name.removesuffix(QUICKGELU_SUFFIX))
    return weights.startswith(HUB) or any(open_clip.get_pretrained_cfg(n, weights) for n in names)


def architecture_name(name: str, weights: str) -> str:
    """The model that `weights` fill, a tag of open_clip's: OpenAI's have their own activation."""
    if open_clip.get_pretrained_cfg(name, weights).get("quick_gelu"):
        return f"{name.removesuffix(QUICKGELU_SUFFIX)}{QUICKGELU_SUFFIX}"
    return name


def joint_dim(name: str) -> int:
    """Dimensions D of the joint space of CLIP `name`, and so of the bank it makes."""
    if name in TINY:
        return TINY_DIM
    config = open_clip.get_model_config(name.removesuffix(QUICKGELU_SUFFIX))
    if config is None:
        raise unknown_name("CLIP", name, [*TINY, *open_clip.list_models()])
    dim: int = config["embed_dim"]
    return dim


def build_tiny_clip(
    name: str,
    rows: list[int],
    options: ViTOptions = ViTOptions(),  # noqa: B008  (frozen)
) -> Clip:
    """An embedded architecture with random weights and a token table of BPE ids `rows`."""
    text = {**_TINY_TEXT, "vocab_size": len(rows) + 1}
    clip = CLIP(TINY_DIM, vision_cfg=TINY[name], text_cfg=text)
    return _make_clip(name, clip, Tokenizer(rows), TINY_SIZE_HW, TINY_OUTPUT_STRIDE, options)


def save_tiny_clip(clip: Clip, path: Path, rows: list[int], metadata: dict[str, Any]) -> None:
    """Write an embedded model in half precision, with its token table and `metadata` about it."""
    state = {key: value.half() for key, value in _encoders(clip).state_dict().items()}
    save_tensors(path, KIND, state, {"clip": clip.name, "rows": rows, **metadata})


def _load_tiny(name: str, weights: str, size_hw: tuple[int, int], options: ViTOptions) -> Clip:
    if size_hw != TINY_SIZE_HW:
        raise PivlError(
            f"{name} reads crops of {TINY_SIZE_HW[0]}×{TINY_SIZE_HW[1]} only, not"
            f" {size_hw[0]}×{size_hw[1]}; leave the size as it is or choose another CLIP."
        )
    if weights == "none":
        return with_weights_hash(build_tiny_clip(name, used_token_ids(vocabulary_texts()), options))
    path = WEIGHTS_DIR / f"{name}.safetensors" if weights == "embedded" else Path(weights)
    if not path.is_file():
        raise PivlError(
            f"No weights for {name} at {path}. Name a file, or make one with"
            f" `python -m teachers.pretrain --clip {name}`."
        )
    _, state, metadata = load_tensors(path, KIND)
    if metadata["clip"] != name:
        raise PivlError(f"{path} holds {metadata['clip']}, not {name}.")
    clip = build_tiny_clip(name, metadata["rows"])
    _encoders(clip).load_state_dict(state)
    if options != ViTOptions():
        image = _make_image_encoder(name, clip.image.visual, size_hw, TINY_OUTPUT_STRIDE, options)
        clip = dataclasses.replace(clip, image=image)
    return with_weights_hash(clip)


def _load_open_clip(name: str, weights: str, size_hw: tuple[int, int], options: ViTOptions) -> Clip:
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
    return with_weights_hash(_make_clip(name, clip, Tokenizer(), size_hw, 16, options))


def _build_open_clip(name: str, tag: str | None) -> CLIP:
    """open_clip's model at its own size, whose position embeddings the encoders resample."""
    device = torch.get_default_device()
    with _without_open_clip_warnings():
        if name in open_clip.list_models():
            return open_clip.create_model(name, pretrained=tag, device=device)
        base = name.removesuffix(QUICKGELU_SUFFIX)
        return open_clip.create_model(base, pretrained=tag, device=device, force_quick_gelu=True)


@contextmanager
def _without_open_clip_warnings() -> Iterator[None]:
    """Without open_clip's warnings of random weights, which are filled right afterwards."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _load_weights(clip: CLIP, name: str, weights: str, published: ClipWeights) -> None:
    if wrong := describe_mismatch(clip.state_dict(), published.state):
        raise PivlError(
            f"'{weights}' does not fit {name}{wrong}. Set clip.name to the model it was made for."
        )
    clip.load_state_dict(published.state, strict=False)  # misfits has looked


def _make_clip(
    name: str,
    clip: CLIP,
    tokenizer: Tokenizer,
    size_hw: tuple[int, int],
    output_stride: int,
    options: ViTOptions,
) -> Clip:
    _require_clip_text_encoder(name, clip)
    image = _make_image_encoder(name, clip.visual, size_hw, output_stride, options)
    mean, std = (
        (IMAGENET_MEAN, IMAGENET_STD) if image.kind == "cnn" else (VIT_MEAN_STD, VIT_MEAN_STD)
    )
    text = TextEncoder(clip, tokenizer)
    return Clip(name, image, text, clip.logit_scale, size_hw, mean, std, weights_sha256="")


def _require_clip_text_encoder(name: str, clip: nn.Module) -> None:
    """PivlError unless the text encoder is CLIP's own; the sentence says in what it is not."""
    if isinstance(clip, CLIP) and clip.text_pool_type == "argmax":
        return
    text = getattr(clip, "text", clip)
    pool = getattr(text, "pool_type", getattr(text, "text_pool_type", None))
    if pool not in (None, "argmax"):
        reason = f"its text encoder reads the '{pool}' token instead"
    else:
        reason = f"open_clip builds it as a {type(clip).__name__}, whose image encoder is"
        reason += f" a {type(clip.visual).__name__}, and not as a CLIP"
    raise PivlError(
        f"{name} does not read its text as CLIP does, causally and up to an end-of-text token:"
        f" {reason}. Choose another CLIP, such as RN50 or ViT-B-16."
    )


def _make_image_encoder(
    name: str,
    visual: nn.Module,
    size_hw: tuple[int, int],
    output_stride: int,
    options: ViTOptions,
) -> ImageEncoder:
    if isinstance(visual, ModifiedResNet):
        if options != ViTOptions():
            raise PivlError(
                f"{name} is a ResNet; overlapping patches (stride) and camera vectors are for ViTs."
            )
        return ResNetImageEncoder(visual, size_hw, output_stride)
    if not isinstance(visual, VisionTransformer):
        raise PivlError(
            f"{name} has a {type(visual).__name__} image encoder; only open_clip's"
            " ModifiedResNet and VisionTransformer can be teachers."
        )
    if visual.pool_type != "tok" or visual.attn_pool is not None or visual.final_ln_after_pool:
        raise PivlError(
            f"{name} does not read its image from the class token as CLIP does; choose another"
            " CLIP, such as ViT-B-16."
        )
    return ViTImageEncoder(visual, size_hw, options)


def _encoders(clip: Clip) -> nn.Module:
    encoders = nn.ModuleDict({"image": clip.image, "text": clip.text})
    encoders.register_parameter("logit_scale", nn.Parameter(clip.logit_scale.data))
    return encoders


def with_weights_hash(clip: Clip) -> Clip:
    """The CLIP with the digest of the weights it now holds; without, on the meta device."""
    if clip.logit_scale.is_meta:
        return clip
    digest = hashlib.sha256()
    for key, value in sorted(_encoders(clip).state_dict().items()):
        if key == "image.camera":  # may be drawn anew; the rest tells weights apart
            continue
        digest.update(key.encode())
        digest.update(value.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
    return dataclasses.replace(clip, weights_sha256=digest.hexdigest())

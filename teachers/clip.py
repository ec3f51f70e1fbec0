"""A CLIP as image encoder, text encoder and preprocessing, built from an open_clip model.

Only open_clip models whose text encoder is CLIP's own and whose image encoder is a `ModifiedResNet`
or a `VisionTransformer` are supported. `clip_loading.py` loads one by name.
"""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass

import open_clip
import torch
from open_clip.model import CLIP
from open_clip.modified_resnet import ModifiedResNet
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

from pivl_distill.errors import PivlError
from teachers.image_encoders import ImageEncoder, ResNetImageEncoder, ViTImageEncoder, ViTOptions
from teachers.text_encoder import TextEncoder, Tokenizer

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF_MEAN_STD = (0.5, 0.5, 0.5)
"""Pixel mean and standard deviation of CLIP-ReID's ViT; its ResNet uses ImageNet's."""
CLIP_MEAN, CLIP_STD = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
"""Pixel statistics that CLIP was trained with."""


@dataclass(frozen=True)
class Clip:
    """The encoders of a CLIP, crop size (H, W) in pixels, and pixel mean and standard deviation."""

    name: str
    image: ImageEncoder
    text: TextEncoder
    logit_scale: Tensor
    size_hw: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    weights_sha256: str

    def with_clip_pixels(self) -> Clip:
        """Return this CLIP with CLIP's pixel statistics in place of CLIP-ReID's."""
        return dataclasses.replace(self, mean=CLIP_MEAN, std=CLIP_STD)

    def to(self, device: torch.device) -> Clip:
        """Move both encoders to `device` in place; return self."""
        self.image.to(device)
        self.text.to(device)
        return self

    def freeze(self) -> Clip:
        """Put both encoders in evaluation mode without gradients, in place; return self."""
        for encoder in (self.image, self.text):
            encoder.eval().requires_grad_(False)
        return self


def make_clip(
    name: str,
    clip: CLIP,
    tokenizer: Tokenizer,
    size_hw: tuple[int, int],
    output_stride: int,
    options: ViTOptions,
) -> Clip:
    """Split an open_clip model into its encoders, with the pixel statistics of CLIP-ReID.

    Args:
        name: name of the CLIP in messages and metadata.
        clip: the open_clip model with its weights.
        tokenizer: tokenizer of its text encoder.
        size_hw: height and width of crops, in pixels.
        output_stride: stride of the last feature map of a ResNet, in pixels.
        options: patch stride and camera embeddings of a ViT.

    Raises:
        PivlError: if the text or image encoder is of an unsupported kind.
    """
    _require_clip_text_encoder(name, clip)
    image = make_image_encoder(name, clip.visual, size_hw, output_stride, options)
    mean, std = (
        (IMAGENET_MEAN, IMAGENET_STD) if image.kind == "cnn" else (HALF_MEAN_STD, HALF_MEAN_STD)
    )
    text = TextEncoder(clip, tokenizer)
    return Clip(name, image, text, clip.logit_scale, size_hw, mean, std, weights_sha256="")


def _require_clip_text_encoder(name: str, clip: nn.Module) -> None:
    """Raise PivlError with the reason unless the text encoder is CLIP's own."""
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


def make_image_encoder(
    name: str,
    visual: nn.Module,
    size_hw: tuple[int, int],
    output_stride: int,
    options: ViTOptions,
) -> ImageEncoder:
    """Wrap the image encoder of an open_clip model for crops of `size_hw` pixels.

    Args:
        name: name of the CLIP in messages.
        visual: open_clip's ModifiedResNet or VisionTransformer.
        size_hw: height and width of crops, in pixels.
        output_stride: stride of the last feature map of a ResNet, in pixels.
        options: patch stride and camera embeddings of a ViT.

    Raises:
        PivlError: if the encoder is of another kind, or the options do not apply to it.
    """
    if isinstance(visual, ModifiedResNet):
        if options != ViTOptions():
            raise PivlError(
                f"{name} is a ResNet; overlapping patches (stride) and camera embeddings are for"
                " ViTs."
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


def encoders_of(clip: Clip) -> nn.Module:
    encoders = nn.ModuleDict({"image": clip.image, "text": clip.text})
    encoders.register_parameter("logit_scale", nn.Parameter(clip.logit_scale.data))
    return encoders


def with_weights_hash(clip: Clip) -> Clip:
    """Return `clip` with the SHA-256 of its current weights; unchanged on the meta device."""
    if clip.logit_scale.is_meta:
        return clip
    digest = hashlib.sha256()
    for key, value in sorted(encoders_of(clip).state_dict().items()):
        if key == "image.camera":  # initialised at random; the other tensors identify the weights
            continue
        digest.update(key.encode())
        digest.update(value.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
    return dataclasses.replace(clip, weights_sha256=digest.hexdigest())

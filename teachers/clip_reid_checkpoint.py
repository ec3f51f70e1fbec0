"""CLIP-ReID's published checkpoints (Li et al., AAAI 2023), recognised by names and shapes.

The official code saves one state dict: image encoder, necks, classifiers, camera embeddings (SIE)
if it was trained with them, text encoder and learned tokens of every identity. The settings of the
training run (architecture, crop size, stride, cameras, identities) are not stored but follow from
the shapes. The SIE coefficient cannot be recovered; CLIP-ReID trains people with 1.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch
from torch import Tensor, nn

from pivl_distill.console import track
from pivl_distill.errors import PivlError
from pivl_distill.models.embedding import EmbeddingModel
from pivl_distill.models.network import BNNeck
from pivl_distill.storage.state_dict import require_matching_state
from pivl_distill.storage.tensors import damage_named
from pivl_distill.storage.weights_file import read_state_dict
from teachers.clip import Clip, with_weights_hash
from teachers.clip_loading import load_clip
from teachers.image_encoders import ViTOptions
from teachers.quick_gelu import QUICKGELU_SUFFIX
from teachers.teacher import clip_embedding_model

ARCHITECTURES = ("ViT-B-16", "RN50")
SIZES_HW = ((256, 128), (384, 128), (256, 256))
"""Crop sizes in pixels that are tried; each has another number of grid cells."""
OVERLAPPING_STRIDE = 12
RESNET_STRIDE = 16
END_POSITION = 2
"""Index of the end-of-text token in a prompt's suffix, after "person" and "."."""

_NAMES = {
    "image_encoder.visual.": "image_encoder.",
    "image_encoder.camera": "cv_embed",
    "neck.norm.": "bottleneck.",
    "neck.classifier.": "classifier.",
    "projected_neck.norm.": "bottleneck_proj.",
    "projected_neck.classifier.": "classifier_proj.",
    "text.": "text_encoder.",
}
"""Prefixes of parameter names: ours → CLIP-ReID's."""

_TOKENS, _PREFIX, _SUFFIX = (
    f"prompt_learner.{name}" for name in ("cls_ctx", "token_prefix", "token_suffix")
)
_REQUIRED = ("image_encoder.conv1.weight", "classifier.weight", "text_encoder.text_projection")
_VIT_PROJECTION = "image_encoder.proj"
_VIT_POSITIONS = "image_encoder.positional_embedding"
_RESNET_POSITIONS = "image_encoder.attnpool.positional_embedding"


@dataclass(frozen=True)
class PromptEmbeddings:
    """Token embeddings of "a photo of a X X X X person." of every identity; W is their width."""

    prefix: Tensor
    """[L1, W] start token and words before the learned tokens."""
    tokens: Tensor
    """[C, M, W] the learned tokens."""
    suffix: Tensor
    """[L2, W] words after them, up to and including the end-of-text token."""


@dataclass(frozen=True)
class ClipReIDCheckpoint:
    """The modules of a checkpoint. The text encoder has no token table: the file lacks it.

    Retrieval uses the features before the necks. A teacher initialised from a checkpoint gets new
    necks, because their classifiers cover only the identities of the file.
    """

    clip: Clip
    neck: BNNeck
    projected_neck: BNNeck
    prompts: PromptEmbeddings

    @property
    def identities(self) -> int:
        """C, the number of training identities."""
        return len(self.prompts.tokens)

    def embedding_model(self) -> EmbeddingModel:
        """Return the image encoder as an embedding model; with SIE it also takes camera ids."""
        return clip_embedding_model(self.clip)

    @torch.inference_mode()
    def identity_texts(self) -> Tensor:
        """Return the text features [C, D] of the identity prompts, by the file's text encoder."""
        prompts, texts = self.prompts, []
        device = self.clip.text.positional_embedding.device
        for tokens in track(prompts.tokens.split(64), "Encoding identity texts", unit="batches"):
            prefix, suffix = (
                part.expand(len(tokens), -1, -1) for part in (prompts.prefix, prompts.suffix)
            )
            embeddings = torch.cat([prefix, tokens, suffix], dim=1)
            ends = torch.full((len(tokens),), embeddings.shape[1] - 1)
            texts.append(self.clip.text(embeddings.to(device), ends.to(device)).cpu())
        return torch.cat(texts)


def load_clip_reid_checkpoint(path: Path, sie_coefficient: float = 1.0) -> ClipReIDCheckpoint:
    """Read a .pth or .safetensors file; PivlError names tensors that are missing or do not fit."""
    with damage_named(path, "CLIP-ReID checkpoint"):
        return parse_checkpoint(read_state_dict(path), str(path), sie_coefficient)


def parse_checkpoint(
    state: dict[str, Tensor], source: str, sie_coefficient: float = 1.0
) -> ClipReIDCheckpoint:
    """Build the checkpoint from a state dict; `source` names it in error messages."""
    positions = _VIT_POSITIONS if _VIT_PROJECTION in state else _RESNET_POSITIONS
    telling = (*_REQUIRED, positions, _TOKENS, _PREFIX, _SUFFIX)
    if missing := [key for key in telling if key not in state]:
        raise PivlError(f"'{source}' is not a CLIP-ReID checkpoint: it lacks {', '.join(missing)}.")
    name = _architecture(state, source)
    size_hw, stride = _grid(state, len(state[positions]) - 1, source)
    cameras = len(state["cv_embed"]) if "cv_embed" in state else 0
    options = ViTOptions(stride, cameras, sie_coefficient) if cameras else ViTOptions(stride)
    clip = load_clip(f"{name}{QUICKGELU_SUFFIX}", "none", size_hw, options)
    clip.text.token_embedding = nn.Embedding.from_pretrained(torch.empty(0, clip.text.width))
    identities = len(state["classifier.weight"])
    neck = BNNeck(clip.image.feature_dim, identities)
    projected_neck = BNNeck(clip.image.dim, identities)
    shell = nn.ModuleDict({"image_encoder": clip.image, "text": clip.text})
    shell.update({"neck": neck, "projected_neck": projected_neck})
    _load(shell, identities, clip.text.width, state, source)
    prefix, tokens, suffix = (state[key].float() for key in (_PREFIX, _TOKENS, _SUFFIX))
    prompts = PromptEmbeddings(prefix[0], tokens, suffix[0, : END_POSITION + 1])
    return ClipReIDCheckpoint(with_weights_hash(clip), neck, projected_neck, prompts)


def is_clip_reid_state(state: dict[str, Tensor]) -> bool:
    """Whether a state dict has the names of a CLIP-ReID checkpoint."""
    return all(key in state for key in _REQUIRED)


def take_token_table(checkpoint: ClipReIDCheckpoint, base: str) -> None:
    """Copy token table and logit scale of the CLIP with weights `base` into `checkpoint`.

    CLIP-ReID keeps both frozen and does not save them. `base` is as `weights` in `load_clip`.
    Raises PivlError if its embeddings of "a photo of a" differ from the checkpoint's.
    """
    clip, prefix = checkpoint.clip, checkpoint.prompts.prefix
    text = clip.text
    base_clip = load_clip(clip.name, base, clip.size_hw).freeze()
    table = base_clip.text.token_embedding
    ids = torch.tensor([text.tokenizer.start, *text.tokenizer.encode("a photo of a")])
    same_length = len(ids) == len(prefix)
    # The official code may have kept its token table in half precision.
    if not same_length or not torch.allclose(table(ids), prefix, rtol=0.01, atol=1e-4):
        raise PivlError(
            f"The token table of '{base}' does not match the checkpoint: the embeddings of"
            ' "a photo of a" differ. Name the CLIP it was fine-tuned from;'
            " for CLIP-ReID that is 'openai'."
        )
    text.token_embedding = table
    with torch.no_grad():
        clip.logit_scale.copy_(base_clip.logit_scale)


def _load(
    shell: nn.Module, identities: int, width: int, state: dict[str, Tensor], source: str
) -> None:
    """Load `state` into the modules of `shell`; PivlError unless every tensor is used and fits."""
    own = {_clip_reid_name(key): v for key, v in shell.state_dict().items() if v.numel()}
    prompts = {
        key: torch.empty(rows, *state[key].shape[1:2], width)
        for key, rows in ((_TOKENS, identities), (_PREFIX, 1), (_SUFFIX, 1))
    }
    remedy = "Use a checkpoint as CLIP-ReID's code saves it."
    require_matching_state(own | prompts, state, source, "CLIP-ReID", remedy)
    with torch.no_grad():
        for name in own.keys() & state.keys():
            own[name].copy_(state[name])


def _clip_reid_name(name: str) -> str:
    ours, theirs = next((o, t) for o, t in _NAMES.items() if name.startswith(o))
    return theirs + name.removeprefix(ours)


def _architecture(state: dict[str, Tensor], source: str) -> str:
    """Return the CLIP whose image encoder has the widths and depths of `state`."""
    shape = _shape_in_file(state)
    for name in ARCHITECTURES:
        if shape == _shape_in_config(open_clip.get_model_config(name)):
            return name
    raise PivlError(
        f"'{source}' holds an image encoder of {shape}, which fits none of"
        f" {', '.join(ARCHITECTURES)}."
    )


def _shape_in_file(state: dict[str, Tensor]) -> dict[str, object]:
    """Return width, blocks, patch and joint dimension under the names of open_clip's configs."""
    stem = state["image_encoder.conv1.weight"]
    blocks = "image_encoder.transformer.resblocks."
    if _VIT_PROJECTION in state:
        layers: object = _count(state, blocks)
        width, patch, dim = stem.shape[0], stem.shape[2], state[_VIT_PROJECTION].shape[1]
    else:
        layers = [_count(state, f"image_encoder.layer{number}.") for number in (1, 2, 3, 4)]
        width, patch = 2 * stem.shape[0], None
        dim = state["text_encoder.text_projection"].shape[1]
    return {"width": width, "layers": layers, "patch_size": patch, "embed_dim": dim}


def _shape_in_config(config: dict[str, Any]) -> dict[str, object]:
    vision = config["vision_cfg"]
    shape = {key: vision.get(key) for key in ("width", "layers", "patch_size")}
    return shape | {"embed_dim": config["embed_dim"]}


def _count(state: dict[str, Tensor], prefix: str) -> int:
    """Count the numbered blocks after `prefix`."""
    return len({key.removeprefix(prefix).split(".")[0] for key in state if key.startswith(prefix)})


def _grid(state: dict[str, Tensor], cells: int, source: str) -> tuple[tuple[int, int], int | None]:
    """Return the crop size (H, W), and the stride of a ViT with overlapping patches, else None."""
    patch = state["image_encoder.conv1.weight"].shape[2]
    is_vit = _VIT_PROJECTION in state
    strides = (patch, OVERLAPPING_STRIDE) if is_vit else (RESNET_STRIDE,)
    for (height, width), stride in itertools.product(SIZES_HW, strides):
        field = patch if is_vit else stride
        if cells == ((height - field) // stride + 1) * ((width - field) // stride + 1):
            return (height, width), None if stride == field else stride
    raise PivlError(
        f"'{source}' has {cells} grid positions, which no stride of {strides} gives on"
        f" crops of {', '.join(f'{h}×{w}' for h, w in SIZES_HW)} pixels."
    )

"""The teacher network of stage 2: CLIP's image encoder with ReID heads, fine-tuned (§3.4).

As in CLIP-ReID, `feature` and `projected` have a neck and a classifier each, the triplet loss uses
three features, and the embedding concatenates `feature` and `projected`, before the necks.
"""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pivl_distill.config import HeadSettings
from pivl_distill.data.listing import parse_integer
from pivl_distill.errors import PivlError
from pivl_distill.models.embedding import EmbeddingModel
from pivl_distill.models.factorised_fusion import encode_cells, fuse
from pivl_distill.models.fusion import FusionHead, build_fusion_head
from pivl_distill.models.map_layer import MapLayer, SplitNetwork, as_is, grid_of_tokens
from pivl_distill.models.network import BNNeck, EncoderOutput, ReIDNetwork, ReIDOutput
from pivl_distill.storage.limits import MAX_CAMERAS
from pivl_distill.storage.numbers import three_numbers
from pivl_distill.storage.state_dict import load_matching_state
from pivl_distill.storage.tensors import damage_named, load_tensors, save_tensors
from teachers.clip import Clip
from teachers.clip_loading import load_clip
from teachers.image_encoders import ImageEncoder, ViTImageEncoder, ViTOptions

KIND = "teacher"


class TeacherEmbedding(nn.Module):
    """Map images [B, 3, H, W] to the embedding [B, F + D]: `feature` and `projected`.

    With camera embeddings it also takes camera ids int64 [B].
    """

    def __init__(self, image_encoder: ImageEncoder) -> None:
        super().__init__()
        self.image_encoder = image_encoder

    def forward(self, images: Tensor, cameras: Tensor | None = None) -> Tensor:
        out = self.image_encoder(images) if cameras is None else self.image_encoder(images, cameras)
        return torch.cat([out.feature, out.projected], dim=1)


class Teacher(ReIDNetwork):
    """CLIP's image encoder with necks, classifiers and the fusion head for C identities."""

    def __init__(self, clip: Clip, identities: int, head: HeadSettings | None) -> None:
        """Without `head` there is no fusion head and no alignment."""
        super().__init__()
        self.name = clip.name
        self.size_hw, self.mean, self.std = clip.size_hw, clip.mean, clip.std
        self.image_encoder = clip.image.requires_grad_(True)
        self.cameras = vit_options(clip.image).cameras
        self.neck = BNNeck(clip.image.feature_dim, identities)
        self.projected_neck = BNNeck(clip.image.dim, identities)
        self.fusion: FusionHead | None = None
        if head is not None:
            channels = clip.image.pyramid_channels
            self.fusion = build_fusion_head(
                clip.image.kind, channels, clip.image.dim, clip.size_hw, head
            )

    def forward_features(self, images: Tensor, cameras: Tensor | None = None) -> EncoderOutput:
        out = self.image_encoder(images) if cameras is None else self.image_encoder(images, cameras)
        cells = encode_cells(self.fusion, out.pyramid) if self.fusion else None
        return EncoderOutput((out.previous, out.feature, out.projected), cells)

    def forward_heads(self, encoded: EncoderOutput) -> ReIDOutput:
        (_, feature, projected), cells = encoded.features, encoded.cells
        return ReIDOutput(
            features=encoded.features,
            logits=(self.neck(feature), self.projected_neck(projected)),
            projected=projected,
            aligned=None if self.fusion is None or cells is None else fuse(self.fusion, cells),
        )

    def classifier(self) -> tuple[Tensor, Tensor]:
        """Return weight [C, F + D] and bias [C] of the mean logits, as a map of the embedding."""
        necks = [neck.as_linear() for neck in (self.neck, self.projected_neck)]
        weights, biases = zip(*necks, strict=True)
        return torch.cat(weights, dim=1) / 2, torch.stack(biases).mean(0)

    @property
    def body(self) -> nn.Module:
        return self.image_encoder

    def enable_gradient_checkpointing(self) -> None:
        if not isinstance(self.image_encoder, ViTImageEncoder):
            super().enable_gradient_checkpointing()
        self.image_encoder.checkpointing = True

    def embedding_model(self) -> EmbeddingModel:
        network = TeacherEmbedding(self.image_encoder).eval()
        pooling = _describe_pooling(self.image_encoder)
        return EmbeddingModel(
            self.name, network, self.size_hw, self.mean, self.std, self.cameras, pooling
        )


def clip_embedding_model(clip: Clip) -> EmbeddingModel:
    """Return the image encoder of `clip` as an embedding model, without necks and fusion head."""
    network, cameras = TeacherEmbedding(clip.image).eval(), vit_options(clip.image).cameras
    pooling = _describe_pooling(clip.image)
    return EmbeddingModel(clip.name, network, clip.size_hw, clip.mean, clip.std, cameras, pooling)


def _describe_pooling(image_encoder: ImageEncoder) -> str:
    """Describe how an encoder pools its last map into the two parts of the embedding."""
    if isinstance(image_encoder, ViTImageEncoder):
        return "class token, and the same after CLIP's projection"
    return "average over the map, and CLIP's attention pooling"


def _image_encoder(network: nn.Module) -> Any:
    """Return the image encoder of a `TeacherEmbedding`."""
    return network.image_encoder


def vit_options(image_encoder: ImageEncoder) -> ViTOptions:
    """Return stride and cameras of an encoder; the defaults for a ResNet."""
    return image_encoder.options if isinstance(image_encoder, ViTImageEncoder) else ViTOptions()


def with_camera(model: EmbeddingModel, camera: str) -> EmbeddingModel:
    """Return the teacher with a fixed camera, so that it takes images only.

    `camera` is a camera id, "mean" for the mean camera embedding, or "input" to keep camera ids as
    an input. Raises PivlError for anything else, and for a network without camera embeddings.
    """
    if not model.cameras:
        raise PivlError(f"{model.name} has no camera embeddings; omit --camera.")
    if camera == "input":
        return model
    number = parse_integer(camera)
    if camera != "mean" and (number is None or not 0 <= number < model.cameras):
        raise PivlError(
            f"--camera takes input, mean, or a number from 0 to {model.cameras - 1}, not '{camera}'"
        )
    network = copy.deepcopy(model.network)
    _image_encoder(network).fix_camera("mean" if number is None else number)
    return dataclasses.replace(model, network=network, cameras=0)


def save_teacher(model: EmbeddingModel, path: Path) -> None:
    """Write the weights with the metadata that `load_teacher` needs."""
    options = dataclasses.asdict(vit_options(_image_encoder(model.network)))
    metadata = {
        "clip": model.name,
        "size_hw": model.size_hw,
        "mean": model.mean,
        "std": model.std,
        "vit": options,
    }
    save_tensors(path, KIND, model.network.state_dict(), metadata)


def load_teacher(path: Path) -> EmbeddingModel:
    """Read the embedding model that `save_teacher` wrote."""
    _, state, metadata = load_tensors(path, KIND)
    with damage_named(path, KIND):
        options = ViTOptions(**metadata.get("vit", {}))
        if not 0 <= options.cameras <= MAX_CAMERAS:
            raise ValueError(f"it has {options.cameras} cameras")
        clip = load_clip(str(metadata["clip"]), "none", metadata.size_hw, options)
        mean, std = (three_numbers(metadata[name], name) for name in ("mean", "std"))
        model = clip_embedding_model(dataclasses.replace(clip, mean=mean, std=std))
    remedy = "Make it again with `pivl-distill teach`."
    load_matching_state(model.network, state, path, f"a teacher of {model.name}", remedy)
    return model


def teacher_map_layer(model: EmbeddingModel) -> MapLayer:
    """Return the last layer with a map of a bare teacher.

    Of a ResNet that is its last map, which is pooled twice; of a ViT the input of the last block,
    because only the class token of its output reaches the embedding.
    """
    network = model.network
    encoder: ImageEncoder = _image_encoder(network)
    if isinstance(encoder, ViTImageEncoder):
        block: Any = encoder.visual.transformer.resblocks[-1]
        return MapLayer(network, block.ln_1, grid_of_tokens(1, encoder.grid_hw))
    split = SplitNetwork(network, encoder.last_map, encoder.pool)
    return MapLayer(split, split.map, as_is)

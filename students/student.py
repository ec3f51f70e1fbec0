"""The student network: a timm backbone with a BNNeck, supervised by text features.

For training with a prompt bank, a linear layer projects the retrieval feature into the joint space
(Eq. 3) and the fusion head projects the backbone's maps into it (Eq. 11). Further linear layers
project the last map for part classification and the neck's output into the space of the teacher's
embeddings. None of them is saved or exported; only those exist that the losses need.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from pivl_distill.config import HeadSettings, PartClassificationSettings
from pivl_distill.models.embedding import EmbeddingModel
from pivl_distill.models.factorised_fusion import encode_cells, fuse
from pivl_distill.models.fusion import FusionHead, build_fusion_head
from pivl_distill.models.map_layer import MapLayer, SplitNetwork, as_is, grid_of_tokens
from pivl_distill.models.network import BNNeck, EncoderOutput, ReIDNetwork, ReIDOutput
from pivl_distill.storage.limits import MAX_FEATURE_DIM
from pivl_distill.storage.paths import shown
from pivl_distill.storage.state_dict import load_matching_state
from pivl_distill.storage.tensors import damage_named, load_tensors, save_tensors
from pivl_distill.vectors.space import COMPATIBLE_KEY, check_ids
from students.backbones import Backbone, LastStride, create_backbone, describe_pooling

CHECKPOINT_KIND = "student"
EMBEDDING_DIM = "embedding_dim"
"""Metadata of a student that ends in a linear layer, for the gallery of another network."""
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Student(ReIDNetwork):
    """A timm backbone with a BNNeck and the heads that the losses of stage 2 need.

    Args:
        arch: timm's name of the architecture.
        network: the bare network of `create_backbone`.
        size_hw: height and width of the images in pixels.
        identities: C, the number of training identities.
        dim: D, the joint dimension of the prompt bank; None to train without a bank.
        align: whether to build the fusion head for Eq. 11; needs `dim`.
        head: settings of the fusion head.
        teacher_dim: dimension of the teacher embeddings; None to train without them.
        parts: settings of part classification, which needs `dim`; None to train without it.
        compatible_with: vector spaces of the galleries that it is trained for.
    """

    mean, std = IMAGENET_MEAN, IMAGENET_STD

    def __init__(
        self,
        arch: str,
        network: nn.Module,
        size_hw: tuple[int, int],
        identities: int,
        dim: int | None,
        align: bool,
        head: HeadSettings,
        teacher_dim: int | None = None,
        parts: PartClassificationSettings | None = None,
        compatible_with: tuple[str, ...] = (),
    ) -> None:
        super().__init__()
        self.arch, self.size_hw, self.compatible_with = arch, size_hw, compatible_with
        self.backbone = Backbone(network)
        self.neck = BNNeck(self.backbone.feature_dim, identities)
        self.project = nn.Linear(self.backbone.feature_dim, dim) if dim else None
        self.to_teacher: nn.Linear | None = None
        if teacher_dim:
            self.to_teacher = nn.Linear(self.backbone.feature_dim, teacher_dim, bias=False)
            nn.init.orthogonal_(self.to_teacher.weight)
        if dim and parts is not None:
            self.backbone.map_gradient_cap = parts.gradient_cap
            self.part_project = nn.Linear(self.backbone.map_dim, dim, bias=False)
        self.fusion: FusionHead | None = None
        if dim and align:
            channels = self.backbone.pyramid_channels
            self.fusion = build_fusion_head(self.backbone.kind, channels, dim, size_hw, head)

    def forward_features(self, images: Tensor, cameras: Tensor | None = None) -> EncoderOutput:
        out = self.backbone(images)
        cells = encode_cells(self.fusion, out.pyramid) if self.fusion else None
        return EncoderOutput((out.feature,), cells, out.final_map if self.part_project else None)

    def forward_heads(self, encoded: EncoderOutput) -> ReIDOutput:
        (feature,), cells = encoded.features, encoded.cells
        normed = self.neck.norm(feature)
        return ReIDOutput(
            features=(feature,),
            logits=(self.neck.classifier(normed),),
            projected=self.project(feature) if self.project else None,
            aligned=None if self.fusion is None or cells is None else fuse(self.fusion, cells),
            distilled_embedding=self.to_teacher(normed) if self.to_teacher else None,
            final_map=encoded.final_map,
        )

    @property
    def body(self) -> nn.Module:
        return self.backbone

    def enable_gradient_checkpointing(self) -> None:
        if self.backbone.kind != "vit":
            super().enable_gradient_checkpointing()
        self.backbone.network.set_grad_checkpointing()

    def embedding_model(self) -> EmbeddingModel:
        network = self.backbone.network
        return bare_embedding_model(self.arch, network, self.size_hw, self.compatible_with)


def bare_embedding_model(
    arch: str, network: nn.Module, size_hw: tuple[int, int], compatible_with: tuple[str, ...] = ()
) -> EmbeddingModel:
    """Return a bare backbone as an embedding model with ImageNet normalisation, in eval mode.

    `compatible_with` are the vector spaces of the galleries that it was trained for.
    """
    pooling = describe_pooling(network)
    return EmbeddingModel(
        arch,
        network.eval(),
        size_hw,
        IMAGENET_MEAN,
        IMAGENET_STD,
        pooling=pooling,
        compatible_with=compatible_with,
    )


def save_student(model: EmbeddingModel, path: Path, last_stride: LastStride) -> None:
    """Write the bare backbone's weights and the settings that `load_student` rebuilds it from."""
    metadata: dict[str, object] = {
        "arch": model.name,
        "size_hw": model.size_hw,
        "last_stride": last_stride,
    }
    if model.compatible_with:
        metadata[EMBEDDING_DIM] = getattr(model.network, "num_classes", 0) or None
        metadata[COMPATIBLE_KEY] = model.compatible_with
    save_tensors(path, CHECKPOINT_KIND, model.network.state_dict(), metadata)


def load_student(path: Path) -> EmbeddingModel:
    """Return the bare backbone in a checkpoint of `save_student`.

    Raises PivlError if the file is not such a checkpoint or its weights do not fit.
    """
    _, state, metadata = load_tensors(path, CHECKPOINT_KIND)
    arch, size_hw = str(metadata["arch"]), metadata.size_hw
    with damage_named(path, CHECKPOINT_KIND):
        network = create_backbone(
            arch,
            image_size_hw=size_hw,
            last_stride=metadata["last_stride"],
            embedding_dim=_read_dim(metadata.get(EMBEDDING_DIM)),
        )
        compatible = check_ids(metadata.get(COMPATIBLE_KEY, []))
    remedy = "Train it again with `pivl-distill student`."
    load_matching_state(network, state, path, arch, remedy)
    return bare_embedding_model(arch, network, size_hw, compatible)


def student_map_layer(model: EmbeddingModel) -> MapLayer:
    """Return the last layer with a map of a bare student.

    Of a CNN that is the map that is pooled; of a ViT the input of the last block, because only the
    class token of its output may reach the embedding.
    """
    network: Any = model.network
    backbone = Backbone(network)
    if backbone.kind == "vit":
        as_map = grid_of_tokens(network.num_prefix_tokens, tuple(network.patch_embed.grid_size))
        return MapLayer(network, network.blocks[-1].norm1, as_map)
    split = SplitNetwork(network, network.forward_features, partial(_pool, network))
    return MapLayer(split, split.map, as_is)


def _pool(network: Any, last: Tensor) -> Tensor:
    feature: Tensor = network.forward_head(last, pre_logits=not network.num_classes)
    return feature


def _read_dim(value: object) -> int | None:
    """Return the length of the embedding in a file; raises ValueError if it is absurd."""
    if value is None or (type(value) is int and 1 <= value <= MAX_FEATURE_DIM):
        return value
    raise ValueError(f"{EMBEDDING_DIM} is {shown(value)}")

"""The student network: a timm backbone inside the ReID shell, supervised by texts alone.

A linear layer takes the retrieval vector into the joint space for Eq. 3 and the fusion head takes
the maps of strides 4, 8 and 16 there for Eq. 11; both exist in training only. Without a bank
neither exists, and what remains is the plain baseline.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from pivl_distill.config import HeadSettings
from pivl_distill.models.embedding import EmbeddingModel
from pivl_distill.models.factorised_fusion import encode_cells, fuse
from pivl_distill.models.fusion import FusionHead, build_fusion_head
from pivl_distill.models.network import BNNeck, EncoderOutput, ReIDNetwork, ReIDOutput
from pivl_distill.storage.state_dict import load_matching_state
from pivl_distill.storage.tensors import load_tensors, save_tensors
from students.backbones import Backbone, LastStride, create_backbone, describe_pooling

CHECKPOINT_KIND = "student"
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Student(ReIDNetwork):
    """`dim` is D of the bank, None without one; `align` whether Eq. 11 is used.

    `teacher_dim` is the size of the teacher's embeddings, None without them.
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
    ) -> None:
        super().__init__()
        self.arch, self.size_hw = arch, size_hw
        self.backbone = Backbone(network)
        self.neck = BNNeck(self.backbone.feature_dim, identities)
        self.project = nn.Linear(self.backbone.feature_dim, dim) if dim else None
        self.to_teacher = nn.Linear(self.backbone.feature_dim, teacher_dim) if teacher_dim else None
        self.fusion: FusionHead | None = None
        if dim and align:
            channels = self.backbone.pyramid_channels
            self.fusion = build_fusion_head(self.backbone.kind, channels, dim, size_hw, head)

    def forward_features(self, images: Tensor, cameras: Tensor | None = None) -> EncoderOutput:
        out = self.backbone(images)
        return EncoderOutput(
            (out.feature,), encode_cells(self.fusion, out.pyramid) if self.fusion else None
        )

    def forward_heads(self, encoded: EncoderOutput) -> ReIDOutput:
        (feature,), cells = encoded.features, encoded.cells
        return ReIDOutput(
            features=(feature,),
            logits=(self.neck(feature),),
            projected=self.project(feature) if self.project else None,
            aligned=None if self.fusion is None or cells is None else fuse(self.fusion, cells),
            distilled_embedding=self.to_teacher(feature) if self.to_teacher else None,
        )

    @property
    def body(self) -> nn.Module:
        return self.backbone

    def enable_gradient_checkpointing(self) -> None:
        if self.backbone.kind != "vit":
            super().enable_gradient_checkpointing()
        self.backbone.network.set_grad_checkpointing()

    def embedding_model(self) -> EmbeddingModel:
        return bare_embedding_model(self.arch, self.backbone.network, self.size_hw)


def bare_embedding_model(arch: str, network: nn.Module, size_hw: tuple[int, int]) -> EmbeddingModel:
    """A backbone as the network that a student leaves behind."""
    pooling = describe_pooling(network)
    return EmbeddingModel(
        arch, network.eval(), size_hw, IMAGENET_MEAN, IMAGENET_STD, pooling=pooling
    )


def save_student(model: EmbeddingModel, path: Path, last_stride: LastStride) -> None:
    """Write the bare backbone's weights with what is needed to rebuild it."""
    metadata = {"arch": model.name, "size_hw": model.size_hw, "last_stride": last_stride}
    save_tensors(path, CHECKPOINT_KIND, model.network.state_dict(), metadata)


def load_student(path: Path) -> EmbeddingModel:
    """The bare backbone in a checkpoint."""
    _, state, metadata = load_tensors(path, CHECKPOINT_KIND)
    size_hw: tuple[int, int] = tuple(metadata["size_hw"])
    network = create_backbone(
        metadata["arch"], image_size_hw=size_hw, last_stride=metadata["last_stride"]
    )
    remedy = "Make it again with `pivl-distill student`."
    load_matching_state(network, state, path, metadata["arch"], remedy)
    return bare_embedding_model(metadata["arch"], network, size_hw)

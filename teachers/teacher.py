"""The teacher network of stage 2: CLIP's image tower, fine-tuned inside the ReID shell (§3.4).

As in CLIP-ReID, two classifiers read `feature` and `projected`, the triplet loss compares three
features, and the retrieval vector is `feature` and `projected` side by side, before the necks.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from pivl_distill.checkpoint import load_tensors, save_tensors
from pivl_distill.config import HeadSettings
from pivl_distill.embedding import EmbeddingModel
from pivl_distill.fusion import build_fusion_head
from pivl_distill.reid import Neck, ReIDNetwork, ReIDOutput
from teachers.clip import Clip, load_clip
from teachers.towers import ImageTower

KIND = "teacher"


class TeacherEmbedding(nn.Module):
    """The bare teacher: images [B, 3, H, W] → `feature` and `projected` [B, F + D]."""

    def __init__(self, tower: ImageTower) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, images: Tensor) -> Tensor:
        out = self.tower(images)
        return torch.cat([out.feature, out.projected], dim=1)


class Teacher(ReIDNetwork):
    """CLIP's image tower with necks, classifiers and the fusion head; C training identities."""

    def __init__(self, clip: Clip, identities: int, head: HeadSettings) -> None:
        super().__init__()
        self.name = clip.name
        self.size_hw, self.mean, self.std = clip.size_hw, clip.mean, clip.std
        self.tower = clip.image.requires_grad_(True)
        self.neck = Neck(clip.image.feature_dim, identities)
        self.projected_neck = Neck(clip.image.dim, identities)
        self.fusion = build_fusion_head(
            clip.image.kind, clip.image.pyramid_channels, clip.image.dim, clip.size_hw, head
        )

    def forward(self, images: Tensor) -> ReIDOutput:
        out = self.tower(images)
        return ReIDOutput(
            metric=(out.previous, out.feature, out.projected),
            logits=(self.neck(out.feature), self.projected_neck(out.projected)),
            projected=out.projected,
            aligned=self.fusion(out.pyramid),
        )

    def embedding_model(self) -> EmbeddingModel:
        network = TeacherEmbedding(self.tower).eval()
        return EmbeddingModel(self.name, network, self.size_hw, self.mean, self.std)


def save_teacher(model: EmbeddingModel, path: Path) -> None:
    """Write the bare teacher's weights with what is needed to rebuild it."""
    facts = {"clip": model.name, "size_hw": model.size_hw}
    save_tensors(path, KIND, model.network.state_dict(), facts)


def load_teacher(path: Path) -> EmbeddingModel:
    """The bare teacher in a checkpoint."""
    _, state, facts = load_tensors(path, KIND)
    clip = load_clip(facts["clip"], "none", tuple(facts["size_hw"]))
    network = TeacherEmbedding(clip.image)
    network.load_state_dict(state)
    return EmbeddingModel(clip.name, network.eval(), clip.size_hw, clip.mean, clip.std)

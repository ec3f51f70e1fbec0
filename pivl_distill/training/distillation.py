"""Distillation: loss terms that compare a student with the embeddings of a teacher network.

None of them is in the paper, whose students learn from texts alone. Each term is one function of
tensors; `distillation_terms` weighs and sums them for a batch. A teacher is any network: ours, or
one whose file gives embeddings only, which then has no logits and no features in the joint space.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pivl_distill.config import DistillationSettings
from pivl_distill.data.transforms import Geometry
from pivl_distill.errors import PivlError
from pivl_distill.losses import MASKED_LOGIT
from pivl_distill.models.network import ReIDOutput
from pivl_distill.training.alignment import centred
from pivl_distill.training.teacher_embeddings import TeacherEmbeddings

MARGIN = 1.0
"""δ of the relaxed contrastive loss, relative to the mean distance in the batch."""


def embedding_loss(features: Tensor, teacher_embeddings: Tensor) -> Tensor:
    """Return the mean of 2 − 2·cos of features [B, F] and teacher embeddings [B, F]."""
    return (2 - 2 * F.cosine_similarity(features, teacher_embeddings, dim=1)).mean()


def anchor_loss(
    features: Tensor, teacher_features: Tensor, anchors: Tensor, temperature: float
) -> Tensor:
    """Return the KL divergence between the similarities of teacher and student to anchors.

    Features [B, F] of both are compared with unit-length `anchors` [A, F] by cosine over τ; the
    softmax over anchors of the teacher is the target. A mean over crops.
    """
    student = F.normalize(features, dim=1) @ anchors.T / temperature
    teacher = F.normalize(teacher_features, dim=1) @ anchors.T / temperature
    return kl_divergence(student, teacher)


def relation_loss(features: Tensor, teacher_embeddings: Tensor, temperature: float) -> Tensor:
    """Return the KL divergence between the similarities to the other crops of the batch.

    Each crop's cosines to all others, over τ, form a distribution for the teacher [B, F'] and for
    the student's features [B, F] (after Passalis and Tefas 2018, with a softmax as the kernel).
    """
    itself = torch.eye(len(features), device=features.device) * MASKED_LOGIT
    student, teacher = (
        F.normalize(x, dim=1) @ F.normalize(x, dim=1).T / temperature + itself
        for x in (features, teacher_embeddings)
    )
    return kl_divergence(student, teacher)


def relaxed_contrastive_loss(features: Tensor, teacher_embeddings: Tensor) -> Tensor:
    """Return the relaxed contrastive loss (Kim et al., CVPR 2021, Eq. 4) of features [B, F].

    A pair attracts with weight exp(−|t_i − t_j|²) of unit teacher embeddings [B, F'], and repels up
    to the margin δ with the rest. Distances are relative to the mean distance from each crop.
    """
    teacher = F.normalize(teacher_embeddings, dim=1)
    weights = (-(2 - 2 * teacher @ teacher.T)).exp()
    mode = "donot_use_mm_for_euclid_dist"
    distances = torch.cdist(features, features, compute_mode=mode)
    distances = distances / distances.mean(1, keepdim=True).clamp(min=1e-6)
    pairs = weights * distances.square() + (1 - weights) * F.relu(MARGIN - distances).square()
    off_diagonal = 1 - torch.eye(len(features), device=features.device)
    return (pairs * off_diagonal).sum(1).mean()


def logit_loss(logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Return T² · KL between the class distributions of teacher and student (Hinton et al. 2015).

    `logits` and `teacher_logits` [B, C] are divided by the temperature T.
    """
    return temperature**2 * kl_divergence(logits / temperature, teacher_logits / temperature)


def kl_divergence(logits: Tensor, target_logits: Tensor) -> Tensor:
    """Return KL(softmax(target) ‖ softmax(logits)) of rows [B, K], averaged over rows."""
    log_target = target_logits.log_softmax(1)
    return F.kl_div(logits.log_softmax(1), log_target, log_target=True, reduction="batchmean")


@dataclass(frozen=True)
class TeacherTargets:
    """Targets of the distillation terms for the N crops of a run, on the training device."""

    embeddings: TeacherEmbeddings
    settings: DistillationSettings
    mean: Tensor
    """[F], the mean of all embeddings."""
    visual_anchors: Tensor | None
    """[C, F] of unit length: the centred mean embedding of each identity."""
    text_anchors: Tensor | None
    """[C, D] of unit length: the centred identity texts; None without a bank or projections."""

    @classmethod
    def prepare(
        cls,
        embeddings: TeacherEmbeddings,
        settings: DistillationSettings,
        labels: Tensor | None,
        texts: Tensor | None,
    ) -> TeacherTargets:
        """Centre the embeddings and compute the anchors that the settings use.

        Args:
            embeddings: of the N crops.
            settings: weights of the terms and the number of views.
            labels: int64 [N], the identity of each crop; −1 for unlabelled ones. None: no anchors.
            texts: [C, D] identity texts, or None.

        Raises: PivlError if a term needs logits and the embeddings come without a classifier.
        """
        embeddings = embeddings.first_views(settings.views)
        if settings.logits and embeddings.classifier is None:
            raise PivlError(
                "distill.logits needs a teacher that classifies the training identities, but these"
                " embeddings come without a classifier or with one of other identities; set"
                " distill.logits to 0."
            )
        mean = embeddings.embeddings.float().mean((0, 1))
        visual = text = None
        if settings.anchors and labels is not None:
            visual = class_means(embeddings.embeddings[:, 0].float() - mean, labels)
            if texts is not None and embeddings.projected is not None:
                text = centred(texts)
        return cls(embeddings, settings, mean, visual, text)

    def geometry(self, batch: np.ndarray, view: np.ndarray, size_hw: tuple[int, int]) -> Geometry:
        """Return flips and offsets of the views int64 [B] of the crops int64 [B], in pixels."""
        return self.embeddings.geometry(batch, view, size_hw)


def class_means(features: Tensor, labels: Tensor) -> Tensor:
    """Return the unit-length mean [C, F] of the unit-length features [N, F] of each label ≥ 0."""
    labelled = labels >= 0
    features, labels = F.normalize(features[labelled], dim=1), labels[labelled]
    sums = features.new_zeros(int(labels.max()) + 1, features.shape[1])
    return F.normalize(sums.index_add(0, labels, features), dim=1)


def distillation_terms(
    output: ReIDOutput, index: Tensor, view: Tensor, targets: TeacherTargets
) -> dict[str, Tensor]:
    """Compute the weighted distillation terms of a batch; their sum is the loss.

    Args:
        output: of the student for the B crops of the batch.
        index: int64 [B], rows of the targets.
        view: int64 [B], the stored view that the student sees of each crop.
        targets: of all crops.
    """
    settings, stored = targets.settings, targets.embeddings
    dtype = output.features[0].dtype
    embeddings = stored.embeddings[index, view].to(dtype)
    centred_embeddings = embeddings - targets.mean
    distilled, terms = output.distilled_embedding, {}
    if settings.embedding and distilled is not None:
        loss = embedding_loss(distilled, centred_embeddings)
        terms["embedding"] = settings.embedding * loss
    if targets.visual_anchors is not None and distilled is not None:
        tau = settings.anchor_temperature
        loss = anchor_loss(distilled, centred_embeddings, targets.visual_anchors, tau)
        if targets.text_anchors is not None and output.projected is not None:
            assert stored.projected is not None  # checked when the anchors were made
            projected = stored.projected[index, view].to(dtype)
            loss = loss + anchor_loss(output.projected, projected, targets.text_anchors, tau)
        terms["anchors"] = settings.anchors * loss
    if settings.relation:
        loss = relation_loss(output.features[0], embeddings, settings.relation_temperature)
        terms["relation"] = settings.relation * loss
    if settings.relaxed_contrastive:
        loss = relaxed_contrastive_loss(output.features[0], embeddings)
        terms["relaxed_contrastive"] = settings.relaxed_contrastive * loss
    if settings.logits and output.logits:
        loss = logit_loss(output.logits[0], stored.logits(embeddings), settings.logit_temperature)
        terms["logits"] = settings.logits * loss
    return terms

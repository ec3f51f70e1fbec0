"""The weighted loss terms of Eq. 12 for one batch."""

from __future__ import annotations

import torch
from torch import Tensor

from pivl_distill.config import LossSettings
from pivl_distill.distributed import process_group
from pivl_distill.distributed.collectives import (
    all_gather,
    all_reduce_mean,
)
from pivl_distill.losses import identity_loss, image_to_text_loss, triplet_loss
from pivl_distill.models.fused_map import FusedMap
from pivl_distill.models.network import ReIDOutput
from pivl_distill.training.alignment import TextFeatures, alignment_loss, text_map


def loss_terms(
    output: ReIDOutput,
    labels: Tensor,
    maps: Tensor | None,
    text_features: TextFeatures | None,
    settings: LossSettings,
    confidence: Tensor | None = None,
) -> dict[str, Tensor]:
    """The weighted terms of Eq. 12: L_id + L_tri + L_i2tce + L_align.

    All see the whole batch, but `output.aligned` is this process's share of it.
    """
    smoothing = settings.label_smoothing
    identity = [identity_loss(logits, labels, smoothing) for logits in output.logits]
    triplet = [
        triplet_loss(features, labels, settings.triplet_margin, settings.triplet_normalize)
        for features in output.features
    ]
    terms = {
        "identity": settings.identity * torch.stack(identity).sum(),
        "triplet": settings.triplet * torch.stack(triplet).sum(),
    }
    if text_features is not None and output.projected is not None:
        terms["image_to_text"] = settings.image_to_text * image_to_text_loss(
            output.projected, text_features.identity, labels, smoothing
        )
    if text_features is not None and output.aligned is not None and maps is not None:
        terms["align"] = settings.align * alignment_term(
            output.aligned, labels, maps, text_features, settings, confidence
        )
    return terms


def alignment_term(
    aligned: FusedMap,
    labels: Tensor,
    maps: Tensor,
    text_features: TextFeatures,
    settings: LossSettings,
    confidence: Tensor | None,
) -> Tensor:
    """L_align (Eq. 11) of a batch; `aligned` is this process's share of it.

    A mean over cells is put together from the means of all processes; only what is contrasted has
    to be in one place, for maps are by far the largest of all outputs.
    """
    own, contrasts = process_group.shard(len(labels)), settings.align_distance == "contrastive"
    if contrasts and process_group.world_size() > 1:
        aligned, own = FusedMap(all_gather(aligned.to_dense(), len(labels))), slice(None)
    sure = None if confidence is None else confidence[own]
    target = text_map(maps[own], labels[own], aligned.shape[2:], text_features, settings, sure)
    loss = alignment_loss(aligned, target, settings.align_distance, settings.align_temperature)
    if contrasts or process_group.world_size() == 1:
        return loss
    return all_reduce_mean(loss, target.weight.sum())

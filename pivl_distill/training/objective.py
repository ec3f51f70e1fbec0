"""The weighted loss terms of Eq. 12 and of part classification for one batch."""

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
from pivl_distill.models.network import ReIDNetwork, ReIDOutput
from pivl_distill.training.alignment import TextFeatures, alignment_loss, make_text_map
from pivl_distill.training.part_classification import (
    PartTexts,
    part_classification_loss,
    pool_parts,
    scheduled_weight,
)


def loss_terms(
    output: ReIDOutput,
    labels: Tensor,
    maps: Tensor | None,
    text_features: TextFeatures | None,
    settings: LossSettings,
    confidence: Tensor | None = None,
) -> dict[str, Tensor]:
    """Compute the weighted terms of Eq. 12: L_id + L_tri + L_i2tce + L_align.

    Args:
        output: outputs for the whole batch of B crops; `output.aligned` is this process's share.
        labels: identities int64 [B].
        maps: parsing maps uint8 [B, H, W]; None leaves L_align out.
        text_features: from the bank; None leaves L_i2tce and L_align out.
        settings: weights and variants of the terms.
        confidence: uint8 [B, H, W] of the parser per pixel, if known.

    Returns:
        The terms that apply, by name; their sum is the loss.
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
    """Compute L_align (Eq. 11) of a whole batch from this process's share of the fused maps.

    Maps are by far the largest output, so processes exchange the mean over their cells. Only a
    contrastive distance, which compares all cells with each other, gathers the maps.

    Args:
        aligned: this process's share of the fused maps, [b, D, h, w].
        labels: identities int64 [B] of the whole batch.
        maps: parsing maps uint8 [B, H, W] of the whole batch.
        text_features: from the bank.
        settings: distance and temperature.
        confidence: uint8 [B, H, W] of the parser per pixel, if known.
    """
    rows, contrastive = process_group.shard(len(labels)), settings.align_distance == "contrastive"
    if contrastive and process_group.world_size() > 1:
        aligned, rows = FusedMap(all_gather(aligned.to_dense(), len(labels))), slice(None)
    local_confidence = None if confidence is None else confidence[rows]
    target = make_text_map(
        maps[rows], labels[rows], aligned.shape[2:], text_features, settings, local_confidence
    )
    loss = alignment_loss(aligned, target, settings.align_distance, settings.align_temperature)
    if contrastive or process_group.world_size() == 1:
        return loss
    return all_reduce_mean(loss, target.weight.sum())


def part_term(
    network: ReIDNetwork,
    output: ReIDOutput,
    labels: Tensor,
    maps: Tensor,
    texts: PartTexts,
    progress: float,
) -> dict[str, Tensor]:
    """Compute the weighted part classification of a batch; empty while its weight is 0.

    Args:
        network: its `part_project` projects pooled features.
        output: of the whole batch; `output.final_map` is this process's share.
        labels: identities int64 [B] of the whole batch.
        maps: parsing maps uint8 [B, H, W] of the whole batch.
        texts: classifiers of the parts.
        progress: the completed share of training in 0..1.
    """
    final_map, rows = output.final_map, process_group.shard(len(labels))
    weight = scheduled_weight(texts.settings, progress)
    if final_map is None or network.part_project is None or not weight:
        return {}
    pooled, areas = pool_parts(final_map, maps[rows], len(texts.vocabulary))
    loss, total = part_classification_loss(network.part_project(pooled), areas, labels[rows], texts)
    return {"parts": weight * all_reduce_mean(loss, total)}

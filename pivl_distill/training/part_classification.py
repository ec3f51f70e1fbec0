"""Part classification: the part texts of a bank classify the parts of a network's final map.

The fusion head of Eqs. 9–11 sees early maps, most of whose network is not deployed behind them.
This term reaches all of it: the final map is averaged over each visible part, projected by one
linear map without a bias, and classified by the texts of that part over identities. The texts are
centred, because what all identities share tells none of them apart. Not in the paper.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from pivl_distill.bank import PromptBank
from pivl_distill.config import PartClassificationSettings
from pivl_distill.data.part_maps import part_shares
from pivl_distill.data.vocabulary import Vocabulary
from pivl_distill.losses import MASKED_LOGIT, MIN_WEIGHT


@dataclass(frozen=True)
class PartTexts:
    """The part texts of a bank as classifiers of the identities, one per part."""

    texts: Tensor
    """[P, C, D], each part's texts minus their mean over identities, at unit length."""
    present: Tensor
    """bool [P, C], whether the identity has the part; always false for the background."""
    vocabulary: Vocabulary
    settings: PartClassificationSettings

    @classmethod
    def from_bank(cls, bank: PromptBank, settings: PartClassificationSettings) -> PartTexts:
        """Centre and normalise the part texts of a bank; identities are in its row order."""
        present = bank.present.T.clone()
        present[bank.vocabulary.background] = False
        texts = bank.part.transpose(0, 1)
        weight = present[..., None].to(texts)
        mean = (texts * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True).clamp(min=1)
        return cls(F.normalize(texts - mean, dim=2) * weight, present, bank.vocabulary, settings)

    def to(self, device: torch.device) -> PartTexts:
        """Return a copy on another device."""
        texts, present = self.texts.to(device), self.present.to(device)
        return replace(self, texts=texts, present=present)


def pool_parts(final_map: Tensor, maps: Tensor, parts: int) -> tuple[Tensor, Tensor]:
    """Average a map over each part; return the means and the visible area of each part.

    Args:
        final_map: [B, C, h, w].
        maps: parsing maps uint8 [B, H, W] of part ids or IGNORE.
        parts: P, the number of parts of the vocabulary.

    Returns:
        [B, P, C], zero for invisible parts, and [B, P] in cells of the map.
    """
    shares = part_shares(maps, (final_map.shape[2], final_map.shape[3]), parts)
    shares = shares.to(final_map).flatten(2)  # [B, P, h·w]
    areas = shares.sum(2)
    sums = shares @ final_map.flatten(2).mT
    return sums / areas.clamp(min=MIN_WEIGHT)[..., None], areas


def part_classification_loss(
    part_features: Tensor, areas: Tensor, labels: Tensor, texts: PartTexts
) -> tuple[Tensor, Tensor]:
    """Return the weighted mean cross-entropy over visible parts, and the sum of their weights.

    A part counts with its area, at most one cell. Identities without the part are no candidates.

    Args:
        part_features: [B, P, D], projected means of `pool_parts`.
        areas: [B, P], visible area in cells.
        labels: int64 [B], rows of the texts.
        texts: the classifiers of the P parts.
    """
    cosines = torch.einsum("bpd,pcd->bpc", F.normalize(part_features, dim=2), texts.texts)
    logits = cosines / texts.settings.temperature + MASKED_LOGIT * ~texts.present
    target = labels[:, None].expand(len(labels), logits.shape[1])
    losses = F.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none")
    weights = areas.clamp(max=1) * texts.present.T[labels]
    total = weights.sum()
    return (losses.view_as(weights) * weights).sum() / total.clamp(min=MIN_WEIGHT), total


def scheduled_weight(settings: PartClassificationSettings, progress: float) -> float:
    """Return the weight of the term at `progress`, the completed share of training in 0..1."""
    rise, full, fall, end = settings.schedule
    rising = 1.0 if progress >= full else max(0.0, (progress - rise) / max(full - rise, 1e-9))
    falling = 1.0 if progress <= fall else max(0.0, (end - progress) / max(end - fall, 1e-9))
    return settings.weight * min(rising, falling)

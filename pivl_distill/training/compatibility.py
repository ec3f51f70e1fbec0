"""Compatible training: the student's queries must work in the gallery of another network.

That network is never run in training: its vectors of the training crops are fixed anchors (Shen et
al. 2020, *Towards backward-compatible representation learning*, CVPR). Two terms act on the
embedding that is deployed, which has the length of the anchors. The regression puts a crop where
the other network put it, so that absolute similarities keep their meaning. The classification is
the influence loss of that paper, with the mean vectors of identities as the other network's
classifier, which vectors alone do not have; it draws a crop to where its identity is in the
gallery, also where the other network's own vector of the crop is not. Left out on purpose: an
adversarial discriminator and elastic boundaries (AdvBCT, Pan et al., CVPR 2023), which need more
settings.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from pivl_distill.config import CompatibilitySettings
from pivl_distill.errors import PivlError
from pivl_distill.models.network import ReIDOutput
from pivl_distill.training.distillation import class_means, embedding_loss

MIN_SPREAD = 1e-4
"""Vectors that are closer to each other tell no crops apart."""


def gallery_regression_loss(features: Tensor, vectors: Tensor, spread: float) -> Tensor:
    """Return the squared distance of unit features to the gallery's vectors, by their `spread`.

    `features` [B, F] of the student, `vectors` [B, F] of unit length of the other network for the
    same crops. A student that returns the mean vector for every crop has a loss of about 1.
    """
    return embedding_loss(features, vectors) / spread


def gallery_classification_loss(
    features: Tensor, means: Tensor, labels: Tensor, temperature: float
) -> Tensor:
    """Return the cross-entropy of cosines to identity means over τ, as in a search of the gallery.

    `features` [B, F] of the student; `means` [C, F] of unit length, of the other network's vectors
    of each identity; `labels` int64 [B] the identities.
    """
    return F.cross_entropy(F.normalize(features, dim=1) @ means.T / temperature, labels)


@dataclass(frozen=True)
class GalleryTargets:
    """The other network's vectors of the N training crops, on the training device."""

    vectors: Tensor
    """float32 [N, F] of unit length."""
    means: Tensor
    """float32 [C, F] of unit length: the mean vector of each identity."""
    spread: float
    """Mean squared distance of the vectors to their mean: 1 − |mean|². The less, the more they have
    in common, and the smaller are the differences of cosines."""
    settings: CompatibilitySettings

    @classmethod
    def prepare(
        cls, vectors: Tensor, labels: Tensor, settings: CompatibilitySettings
    ) -> GalleryTargets:
        """Normalise vectors [N, F], and average those of each of the labels int64 [N].

        Raises PivlError if all vectors are the same.
        """
        unit = F.normalize(vectors, dim=1)
        spread = float((unit - unit.mean(0)).square().sum(1).mean())
        if spread < MIN_SPREAD:
            raise PivlError(
                f"{settings.network} gives nearly the same vector to every training crop; check how"
                " its input is made."
            )
        return cls(unit, class_means(vectors, labels), spread, settings)


def compatibility_terms(
    output: ReIDOutput, index: Tensor, labels: Tensor, targets: GalleryTargets
) -> dict[str, Tensor]:
    """Compute the weighted terms of a batch; their sum is the loss.

    Args:
        output: of the student for the B crops of the batch.
        index: int64 [B], rows of the targets.
        labels: int64 [B], the identities.
        targets: of all crops.
    """
    settings, features = targets.settings, output.features[0]
    terms = {}
    if settings.regression:
        loss = gallery_regression_loss(features, targets.vectors[index], targets.spread)
        terms["gallery_regression"] = settings.regression * loss
    if settings.classification:
        temperature = settings.temperature * targets.spread
        loss = gallery_classification_loss(features, targets.means, labels, temperature)
        terms["gallery_classification"] = settings.classification * loss
    return terms

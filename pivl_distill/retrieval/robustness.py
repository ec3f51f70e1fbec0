"""The robustness card: mAP and Rank-1 of a network under the corruptions of `data.corruptions`.

Chen et al. (NeurIPS 2021) corrupt queries, gallery or both. A corrupted query is a person seen by
a poor camera and searched in a good gallery.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from pivl_distill.console import track
from pivl_distill.data.corruptions import CORRUPTIONS, STRENGTHS, CorruptedCrops, check_corruptions
from pivl_distill.errors import PivlError
from pivl_distill.models.embedding import EmbeddingModel, ForwardFunction, embed
from pivl_distill.retrieval.camera_pairs import CameraPair, camera_pairs
from pivl_distill.retrieval.evaluation import (
    QueryGalleryCrops,
    QueryGalleryFeatures,
    embed_query_gallery,
    evaluate_features,
)

CorruptedSplit = Literal["query", "gallery", "both"]


@dataclass(frozen=True)
class Scores:
    """mAP and Rank-1 in 0..1."""

    mAP: float  # noqa: N815
    rank1: float


@dataclass(frozen=True)
class ConditionScores:
    """Scores with crops corrupted at one strength."""

    corruption: str
    strength: int
    mAP: float  # noqa: N815
    rank1: float


@dataclass(frozen=True)
class CameraPairScores:
    """Scores of the queries of one camera against the gallery of another.

    `corrupted` has the means over the five strengths, by corruption.
    """

    query_camera: int
    gallery_camera: int
    queries: int
    clean: Scores
    corrupted: dict[str, Scores]


@dataclass(frozen=True)
class RobustnessCard:
    """Scores with the `split` corrupted, by corruption and strength, and by camera pair.

    `camera_pairs` is empty if cameras are unknown.
    """

    split: CorruptedSplit
    clean: Scores
    conditions: tuple[ConditionScores, ...]
    camera_pairs: tuple[CameraPairScores, ...] = ()

    def corruptions(self) -> dict[str, list[ConditionScores]]:
        """Return the conditions by corruption, in the order of their strength."""
        return {
            name: [row for row in self.conditions if row.corruption == name]
            for name in dict.fromkeys(row.corruption for row in self.conditions)
        }

    def mean(self) -> Scores:
        """Return the means over all corruptions and strengths."""
        return _mean(self.conditions)


def measure_robustness(
    model: EmbeddingModel,
    crops: QueryGalleryCrops,
    forward: ForwardFunction | None = None,
    clean: QueryGalleryFeatures | None = None,
    corruptions: Sequence[str] = tuple(CORRUPTIONS),
    split: CorruptedSplit = "query",
) -> RobustnessCard:
    """Score a network on corrupted crops.

    Args:
        model: the network and its preprocessing.
        crops: query and gallery.
        forward: replaces the network, as for `embed`.
        clean: features of the crops as they are, if they are known.
        corruptions: names of those to measure.
        split: what is corrupted.

    Raises: PivlError for an unknown corruption, or crops on which retrieval cannot be measured.
    """
    check_corruptions(corruptions)
    check_scored(crops)
    clean = clean or embed_query_gallery(model, crops, forward)
    pairs = [_PairSums(pair, Scores(*pair.scores(clean, crops))) for pair in camera_pairs(crops)]
    conditions = [(name, strength) for name in corruptions for strength in STRENGTHS]
    scored = []
    for name, strength in track(conditions, f"Corrupting the {split}", unit="conditions"):
        features = clean
        for part in _splits(split):
            store = getattr(crops, part)
            corrupted = CorruptedCrops(store.crops, name, strength)
            embedded = embed(model, corrupted, store.camids, forward=forward, description=None)
            features = replace(features, **{part: embedded})
        result = evaluate_features(features, crops, model.device)
        scored.append(ConditionScores(name, strength, result.mAP, result.rank(1)))
        for pair in pairs:
            pair.add(name, Scores(*pair.pair.scores(features, crops)))
    reference = evaluate_features(clean, crops, model.device)
    return RobustnessCard(
        split,
        Scores(reference.mAP, reference.rank(1)),
        tuple(scored),
        tuple(pair.result() for pair in pairs),
    )


def check_scored(crops: QueryGalleryCrops) -> None:
    """Raise PivlError if retrieval cannot be measured on the crops."""
    if not crops.scored:
        raise PivlError(
            "Robustness is measured on query and gallery, and this run was trained with"
            " --no-evaluation; remove --corruptions."
        )


def _splits(split: CorruptedSplit) -> Iterator[str]:
    yield from ("query", "gallery") if split == "both" else (split,)


@dataclass
class _PairSums:
    """Scores of a camera pair, collected over the conditions."""

    pair: CameraPair
    clean: Scores
    measured: dict[str, list[Scores]] = field(default_factory=dict)

    def add(self, corruption: str, scores: Scores) -> None:
        self.measured.setdefault(corruption, []).append(scores)

    def result(self) -> CameraPairScores:
        return CameraPairScores(
            self.pair.query_camera,
            self.pair.gallery_camera,
            len(self.pair.query),
            self.clean,
            {name: _mean(scores) for name, scores in self.measured.items()},
        )


def _mean(scores: Sequence[Scores | ConditionScores]) -> Scores:
    return Scores(
        statistics.fmean(row.mAP for row in scores), statistics.fmean(row.rank1 for row in scores)
    )

"""Compare an exported file with its checkpoint: feature by feature, and in retrieval.

Both sides get the same preprocessed crops, so any difference comes from the graph. mAP and Rank-1
are measured on both sides too, since retrieval is what the features are used for.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from pivl_distill.errors import PivlError, VerificationError, unknown_name
from pivl_distill.models.embedding import EmbeddingModel, ForwardFunction
from pivl_distill.retrieval import RetrievalResult
from pivl_distill.retrieval.evaluation import (
    QueryGalleryCrops,
    QueryGalleryFeatures,
    embed_query_gallery,
    evaluate_features,
)
from pivl_distill.vectors.unit import unit

ExportPrecision = Literal["fp32", "fp16", "int8"]
EXPORT_PRECISIONS: tuple[ExportPrecision, ...] = ("fp32", "fp16", "int8")


@dataclass(frozen=True)
class FeatureParity:
    """Agreement of exported features with the checkpoint's over all query and gallery crops."""

    min_cosine: float
    mean_cosine: float
    max_abs_difference: float


@dataclass(frozen=True)
class RetrievalComparison:
    """mAP and Rank-1 in 0..1 of the checkpoint and of the exported file, over `queries` queries.

    `camera_rule` is False if the camera ids are unknown; see `RetrievalResult`.
    """

    checkpoint_mAP: float  # noqa: N815
    exported_mAP: float  # noqa: N815
    checkpoint_rank1: float
    exported_rank1: float
    queries: int
    camera_rule: bool = True

    @property
    def mAP_loss_points(self) -> float:  # noqa: N802
        """Checkpoint minus exported, in percentage points."""
        return 100 * (self.checkpoint_mAP - self.exported_mAP)

    @property
    def rank1_loss_points(self) -> float:
        """Checkpoint minus exported, in percentage points."""
        return 100 * (self.checkpoint_rank1 - self.exported_rank1)


@dataclass(frozen=True)
class AccuracyBudget:
    """Accuracy that an export may lose: the lowest cosine, and percentage points of mAP and Rank-1.

    The Rank-1 of a single query is always allowed, because it may be a tie. A gain is never over
    budget; the cosine detects features that are merely different.
    """

    min_cosine: float
    max_mAP_loss_points: float  # noqa: N815
    max_rank1_loss_points: float


DEFAULT_BUDGETS: dict[ExportPrecision, AccuracyBudget] = {
    "fp32": AccuracyBudget(min_cosine=0.9999, max_mAP_loss_points=0.1, max_rank1_loss_points=0.1),
    "fp16": AccuracyBudget(min_cosine=0.999, max_mAP_loss_points=0.1, max_rank1_loss_points=0.5),
    "int8": AccuracyBudget(min_cosine=0.95, max_mAP_loss_points=1.0, max_rank1_loss_points=2.0),
}


_BUDGET_FIELDS = {
    "cosine": "min_cosine",
    "mAP": "max_mAP_loss_points",
    "rank1": "max_rank1_loss_points",
}


def parse_budgets(assignments: Iterable[str]) -> dict[ExportPrecision, AccuracyBudget]:
    """Return `DEFAULT_BUDGETS` with limits replaced, such as "int8.mAP=2" or "fp16.cosine=0.99".

    Raises PivlError for an unknown precision or limit, or a value that is not a finite number.
    """
    budgets = dict(DEFAULT_BUDGETS)
    for assignment in assignments:
        key, _, value = assignment.partition("=")
        name, _, limit = key.partition(".")
        precision = parse_precision(name)
        if limit not in _BUDGET_FIELDS:
            raise unknown_name("budget", limit, _BUDGET_FIELDS)
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise PivlError(f"A budget looks like int8.mAP=2, not '{assignment}'.")
        budgets[precision] = replace(budgets[precision], **{_BUDGET_FIELDS[limit]: number})
    return budgets


def parse_precision(name: str) -> ExportPrecision:
    """Return the precision of this name. Raises PivlError with the known names."""
    for precision in EXPORT_PRECISIONS:
        if precision == name:
            return precision
    raise unknown_name("precision", name, EXPORT_PRECISIONS)


@dataclass(frozen=True)
class Reference:
    """Features and retrieval result of the checkpoint; exported files are compared with them.

    `result` is None if retrieval cannot be measured on the crops.
    """

    test: QueryGalleryCrops
    features: QueryGalleryFeatures
    result: RetrievalResult | None


def measure_reference(
    model: EmbeddingModel,
    test: QueryGalleryCrops,
    *,
    normalize: bool,
    forward: ForwardFunction | None = None,
) -> Reference:
    """Embed the crops, and evaluate them if they are scored.

    `normalize` is as for `write_onnx`; `forward` replaces the network, which PyTorch runs.
    """
    features = embed_query_gallery(model, test, forward)
    if normalize:
        features = QueryGalleryFeatures(
            *(unit(split) for split in (features.query, features.gallery))
        )
    return Reference(test, features, evaluate_features(features, test) if test.scored else None)


def compare_with_reference(
    reference: Reference, features: QueryGalleryFeatures
) -> tuple[FeatureParity, RetrievalComparison | None]:
    """Compare the query and gallery features of an exported file with the checkpoint's.

    Without a retrieval result of the checkpoint, only the features are compared. Raises
    VerificationError if features are not finite.
    """
    parity = compare_features(
        *(np.concatenate([side.query, side.gallery]) for side in (reference.features, features))
    )
    if (before := reference.result) is None:
        return parity, None
    after = evaluate_features(features, reference.test)
    return parity, RetrievalComparison(
        before.mAP,
        after.mAP,
        before.rank(1),
        after.rank(1),
        before.valid_queries,
        before.camera_rule,
    )


def compare_features(expected: np.ndarray, exported: np.ndarray) -> FeatureParity:
    """Compare features [N, F] row by row; raises VerificationError if `exported` is not finite."""
    if broken := np.count_nonzero(~np.isfinite(exported).all(axis=1)):
        raise VerificationError(
            f"{broken} of {len(exported)} features are not finite: the network overflows in this "
            "precision."
        )
    cosine = (unit(expected) * unit(exported)).sum(axis=1)
    return FeatureParity(
        float(cosine.min()), float(cosine.mean()), float(abs(expected - exported).max())
    )


def check_budget(
    parity: FeatureParity, retrieval: RetrievalComparison | None, budget: AccuracyBudget
) -> None:
    """Raise VerificationError, with measured values and limits, if the budget is exceeded.

    Without a comparison of retrieval, the cosine alone decides.
    """
    over = []
    if parity.min_cosine < budget.min_cosine:
        over.append(f"minimum cosine {parity.min_cosine:.6f}, budget {budget.min_cosine:g}")
    if retrieval is not None:
        over += _losses_over_budget(retrieval, budget)
    if over:
        raise VerificationError(f"Over budget: {'; '.join(over)}.")


def _losses_over_budget(retrieval: RetrievalComparison, budget: AccuracyBudget) -> list[str]:
    """Return the losses of mAP and Rank-1 that exceed the budget."""
    over = []
    if retrieval.mAP_loss_points > budget.max_mAP_loss_points:
        over.append(
            f"mAP fell from {retrieval.checkpoint_mAP:.2%} to {retrieval.exported_mAP:.2%}, "
            f"budget {budget.max_mAP_loss_points:g} points"
        )
    one_query = 100 / retrieval.queries
    if retrieval.rank1_loss_points > max(budget.max_rank1_loss_points, one_query) + 1e-9:
        over.append(
            f"Rank-1 fell from {retrieval.checkpoint_rank1:.2%} to {retrieval.exported_rank1:.2%}, "
            f"budget {budget.max_rank1_loss_points:g} points"
        )
    return over

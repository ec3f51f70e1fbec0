"""Does the exported file do what the checkpoint does? Feature by feature, and in retrieval.

Features are compared after the same preprocessing, so that any difference is the graph's. What
users care about is retrieval, so mAP and Rank-1 are measured on both sides too.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from export.session import open_session, run
from pivl_distill.data.store import CropStore
from pivl_distill.embedding import EmbeddingModel, embed
from pivl_distill.errors import VerificationError
from pivl_distill.retrieval import RetrievalResult, evaluate


@dataclass(frozen=True)
class Parity:
    """How near exported features are to the checkpoint's, over all compared crops."""

    min_cosine: float
    mean_cosine: float
    max_abs_difference: float


@dataclass(frozen=True)
class RetrievalComparison:
    """mAP and Rank-1 in 0..1 of the checkpoint and of the exported file.

    `camera_rule` is False if cameras are unknown, as in `RetrievalResult`.
    """

    checkpoint_mAP: float  # noqa: N815
    exported_mAP: float  # noqa: N815
    checkpoint_rank1: float
    exported_rank1: float
    camera_rule: bool = True

    @property
    def mAP_change_points(self) -> float:  # noqa: N802
        """Exported minus checkpoint, in percentage points."""
        return 100 * (self.exported_mAP - self.checkpoint_mAP)


@dataclass(frozen=True)
class Budget:
    """What an export may lose: the least cosine, and the change of mAP in percentage points."""

    min_cosine: float = 0.9999
    max_mAP_change_points: float = 0.1  # noqa: N815


def verify(
    model: EmbeddingModel,
    onnx_path: Path,
    crops: np.ndarray,
    camids: np.ndarray | None = None,
    *,
    normalize: bool,
) -> Parity:
    """Compare features of uint8 RGB crops [N, H, W, 3]; `normalize` as given to `write_onnx`."""
    ours = embed(model, crops, camids, description="Features, checkpoint")
    theirs = _embed_exported(model, onnx_path, crops, camids)
    if normalize:
        ours = ours / np.linalg.norm(ours, axis=1, keepdims=True)
    lengths = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    cosine = (ours * theirs).sum(axis=1, dtype=np.float64) / lengths
    return Parity(float(cosine.min()), float(cosine.mean()), float(abs(ours - theirs).max()))


def compare_retrieval(
    model: EmbeddingModel, onnx_path: Path, query: CropStore, gallery: CropStore
) -> RetrievalComparison:
    """Evaluate the checkpoint and the exported file on the same query and gallery."""
    ours = _evaluate(
        embed(model, query.crops, query.camids),
        embed(model, gallery.crops, gallery.camids),
        query,
        gallery,
    )
    theirs = _evaluate(
        _embed_exported(model, onnx_path, query.crops, query.camids),
        _embed_exported(model, onnx_path, gallery.crops, gallery.camids),
        query,
        gallery,
    )
    return RetrievalComparison(ours.mAP, theirs.mAP, ours.rank(1), theirs.rank(1), ours.camera_rule)


def check_budget(
    onnx_path: Path, parity: Parity, retrieval: RetrievalComparison, budget: Budget
) -> None:
    """VerificationError, with figures and budget, if the export lost more than it may."""
    over = []
    # Written so that NaN, which compares false with everything, is over budget.
    if not parity.min_cosine >= budget.min_cosine:
        over.append(f"least cosine {parity.min_cosine:.6f}, budget {budget.min_cosine}")
    if not abs(retrieval.mAP_change_points) <= budget.max_mAP_change_points:
        over.append(
            f"mAP {retrieval.checkpoint_mAP:.2%} became {retrieval.exported_mAP:.2%}, "
            f"budget {budget.max_mAP_change_points} points"
        )
    if over:
        raise VerificationError(
            f"{onnx_path} does not do what the checkpoint does: {'; '.join(over)}. "
            "The files are kept for inspection; do not ship them."
        )


def _evaluate(
    query_features: np.ndarray, gallery_features: np.ndarray, query: CropStore, gallery: CropStore
) -> RetrievalResult:
    return evaluate(
        query_features, gallery_features, query.pids, gallery.pids, query.camids, gallery.camids
    )


def _embed_exported(
    model: EmbeddingModel, onnx_path: Path, crops: np.ndarray, camids: np.ndarray | None
) -> np.ndarray:
    forward = partial(run, open_session(onnx_path))
    return embed(model, crops, camids, forward=forward, description="Features, exported")

"""Measure a network of a consumer's folder: exact crops first, then as the consumer is used.

Exact: the golden crop and 64 test crops, each a frame of the input size with a box around all of
it, so that no consumer has anything to pad or to resize. What differs then is the network and its
normalisation, and the cosine budget of the precision decides.

As used: every query and gallery image at its own size, inside a frame, cut out and resized by the
consumer. Its mAP and Rank-1 are those that a user of the consumer gets, and thresholds hold for its
crops only. The frame continues the edge of the image, since a data set of crops does not have what
was around them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from export.accuracy import (
    AccuracyBudget,
    ExportPrecision,
    Reference,
    check_budget,
    compare_features,
    compare_with_reference,
    measure_reference,
)
from export.consumer_schema import ConsumerRun
from export.consumers.base import Frame, NetworkFile, Runner
from export.exporter import LATENCY_BATCHES
from export.latency import Latency, measure_latency
from export.loading import load_exported
from export.manifest_schema import read_manifest
from export.verification import measure_thresholds
from pivl_distill.console import track
from pivl_distill.data.images import read_pixels
from pivl_distill.data.records import Record
from pivl_distill.errors import PivlError, VerificationError
from pivl_distill.models.embedding import embed
from pivl_distill.retrieval.evaluation import QueryGalleryCrops, QueryGalleryFeatures
from pivl_distill.storage.filenames import FP32_FILE
from pivl_distill.storage.files import sha256
from pivl_distill.storage.readers import check_inside

EXACT_CROPS = 64
"""Test crops of the exact comparison, besides the golden crop."""
FRAMES_PER_BATCH = 32
BORDER_SHARE, BORDER_PX = 0.05, 8
"""Width of the frame around an image: a share of its longer side, and pixels."""
LEAST_MEAN_COSINE = 0.9
"""Through a consumer's own crop and resize. Swapped channels give 0.86, no mean and deviation 0.89,
a padded box 0.98."""
MOST_LOSS_POINTS = 5.0
"""Of mAP, through a consumer's own crop and resize; what it costs is stated, not hidden."""


@dataclass(frozen=True)
class Trial:
    """What the networks of consumers are measured on.

    `reference` has unit features of the float32 file with our crop and resize; `golden` is the
    golden crop, uint8 RGB [H, W, 3], and `golden_feature` its unit feature [F]. `query` and
    `gallery` are the images of `reference.test`.
    """

    reference: Reference
    golden: np.ndarray
    golden_feature: np.ndarray
    query: Sequence[Record]
    gallery: Sequence[Record]
    budgets: dict[ExportPrecision, AccuracyBudget]

    def run(self, file: NetworkFile, runner: Runner) -> ConsumerRun:
        """Measure a network through `runner`: verified, unverified or failed, with the reason."""
        measured: dict[str, Any] = {"status": "verified", "by": runner.by}
        if runner.unverified is not None:
            measured |= {"status": "unverified", "reason": runner.unverified}
        try:
            # Filled step by step, so that a failure keeps what was measured before it.
            measured["exact"] = self._exact(runner)
            check_budget(measured["exact"], None, self.budgets[file.precision])
            features = self._as_used(file, runner)
            measured["as_used"], measured["retrieval"] = compare_with_reference(
                self.reference, features
            )
            measured["thresholds"] = measure_thresholds(self.reference.test, features)
            if runner.our_crops:
                budget = self.budgets[file.precision]
                check_budget(measured["as_used"], measured["retrieval"], budget)
            else:
                _check_as_used(measured)
            if runner.sessions is not None:
                measured |= _latencies(runner.sessions)
        except PivlError as error:
            measured |= {"status": "failed", "reason": str(error)}
        return ConsumerRun(file=file.path, precision=file.precision, **measured)

    def _exact(self, runner: Runner) -> Any:
        crops, expected = self._exact_crops()
        height, width = self.golden.shape[:2]
        frames = [Frame(crop, (0, 0, width, height)) for crop in crops]
        return compare_features(expected, _embed(runner, frames, self.golden_feature.size))

    def _exact_crops(self) -> tuple[np.ndarray, np.ndarray]:
        """The golden crop and evenly spaced gallery crops, and their features of the reference."""
        gallery, features = self.reference.test.gallery.crops, self.reference.features.gallery
        rows = np.unique(np.linspace(0, len(gallery) - 1, EXACT_CROPS).astype(int))
        return (
            np.concatenate([self.golden[None], gallery[rows]]),
            np.concatenate([self.golden_feature[None], features[rows]]),
        )

    def _as_used(self, file: NetworkFile, runner: Runner) -> QueryGalleryFeatures:
        records = [*self.query, *self.gallery]
        starts = track(
            range(0, len(records), FRAMES_PER_BATCH), f"{runner.by}: {file.path}", unit="batches"
        )
        vectors = [
            _embed(runner, list(_frames(records[start : start + FRAMES_PER_BATCH])), None)
            for start in starts
        ]
        features = np.concatenate(vectors)
        return QueryGalleryFeatures(features[: len(self.query)], features[len(self.query) :])


def _latencies(sessions: tuple[Any, Any]) -> dict[str, tuple[Latency, ...]]:
    """Time the sessions in turns, on batches of each of `LATENCY_BATCHES`."""
    timed = [measure_latency(sessions, batch) for batch in LATENCY_BATCHES]
    here, onnxruntime = zip(*timed, strict=True)
    return {"latency": here, "onnxruntime_latency": onnxruntime}


def prepare_trial(
    folder: Path, test: QueryGalleryCrops, query: Sequence[Record], gallery: Sequence[Record]
) -> Trial:
    """Measure the float32 file of the export `folder` on `test`, the reference of its consumers.

    `query` and `gallery` are the images of `test`. Raises PivlError if that file or the golden crop
    is not that of the manifest.
    """
    manifest = read_manifest(folder)
    model, forward = load_exported(folder / FP32_FILE)
    path = folder / manifest.golden_crop.file
    check_inside(path)
    if not path.is_file() or sha256(path) != manifest.golden_crop.sha256:
        raise PivlError(f"{path} is not the golden crop of the manifest; export it again.")
    golden = read_pixels(path)
    (feature,) = embed(model, golden[None], forward=forward, description="Embedding golden crop")
    return Trial(
        measure_reference(model, test, normalize=True, forward=forward),
        golden,
        feature / np.linalg.norm(feature),
        query,
        gallery,
        manifest.budgets,
    )


def _check_as_used(measured: dict[str, Any]) -> None:
    """Raise VerificationError if the consumer's crop and resize ruin what the network returns."""
    over = []
    if (cosine := measured["as_used"].mean_cosine) < LEAST_MEAN_COSINE:
        over.append(f"mean cosine {cosine:.4f}, at least {LEAST_MEAN_COSINE:g}")
    retrieval = measured["retrieval"]
    if retrieval is not None and retrieval.mAP_loss_points > MOST_LOSS_POINTS:
        over.append(
            f"mAP fell from {retrieval.checkpoint_mAP:.2%} to {retrieval.exported_mAP:.2%}, at most"
            f" {MOST_LOSS_POINTS:g} points"
        )
    if over:
        raise VerificationError(f"Its own crop and resize change too much: {'; '.join(over)}.")


def _frames(records: Sequence[Record]) -> Iterator[Frame]:
    for record in records:
        yield framed(read_pixels(record.path))


def framed(image: np.ndarray) -> Frame:
    """Put an image, uint8 RGB [H, W, 3], into a frame that continues its edge pixels."""
    height, width = image.shape[:2]
    border = BORDER_PX + round(BORDER_SHARE * max(height, width))
    pixels = np.pad(image, ((border, border), (border, border), (0, 0)), mode="edge")
    return Frame(pixels, (border, border, border + width, border + height))


def _embed(runner: Runner, frames: Sequence[Frame], dim: int | None) -> np.ndarray:
    """Return unit vectors, float32 [N, F]; raise PivlError if the runner returns anything else."""
    vectors = np.asarray(runner.embed(frames), np.float32)
    if vectors.ndim != 2 or len(vectors) != len(frames) or dim not in (None, vectors.shape[1]):
        raise VerificationError(
            f"{runner.by} returned an array {list(vectors.shape)} for {len(frames)} people"
            + (f" instead of {dim} values each." if dim is not None else ".")
        )
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not (np.isfinite(lengths) & (lengths > 0)).all():
        raise VerificationError(f"{runner.by} returned vectors that are zero or not finite.")
    unit: np.ndarray = vectors / lengths
    return unit

"""Statistics of parsing maps: class shares, foreground, empty maps, IoU with reference maps."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pivl_distill.data.vocabulary import IGNORE, Vocabulary


class ConfusionMatrix:
    """Confusion matrix of P classes with reference maps; skips pixels unknown in either."""

    def __init__(self, parts: int) -> None:
        self.confusion = np.zeros((parts, parts), np.int64)
        """int64 [P reference, P found], in pixels."""

    def add(self, reference: np.ndarray, found: np.ndarray) -> None:
        """Count two maps of equal shape, uint8 class ids or IGNORE."""
        known = (reference != IGNORE) & (found != IGNORE)
        parts = len(self.confusion)
        pairs = reference[known].astype(np.int64) * parts + found[known]
        self.confusion += np.bincount(pairs, minlength=parts**2).reshape(parts, parts)

    def iou(self) -> np.ndarray:
        """Return the intersection over union of each class [P]; NaN for a class in neither."""
        both = self.confusion.diagonal()
        either = self.confusion.sum(0) + self.confusion.sum(1) - both
        return np.where(either > 0, both / np.maximum(either, 1), np.nan)

    @property
    def mean_iou(self) -> float:
        """mIoU over the classes that occur; NaN if none does."""
        iou = self.iou()
        return float(iou[~np.isnan(iou)].mean()) if not np.isnan(iou).all() else float("nan")


@dataclass
class MapStatistics:
    """Counts over maps of one vocabulary with P classes."""

    vocabulary: Vocabulary
    maps: int = 0
    pixels: np.ndarray = field(init=False)
    """int64 [256]: pixels of each class id, IGNORE included."""
    images: np.ndarray = field(init=False)
    """int64 [P]: maps that contain each class."""
    empty: list[Path] = field(default_factory=list)
    """Images whose map has no foreground."""

    def __post_init__(self) -> None:
        self.pixels = np.zeros(256, np.int64)
        self.images = np.zeros(len(self.vocabulary), np.int64)

    def add(self, image: Path, labels: np.ndarray) -> None:
        """Count one map, uint8 [H, W]."""
        counts = np.bincount(labels.ravel(), minlength=256)
        self.maps += 1
        self.pixels += counts
        self.images += counts[: len(self.vocabulary)] > 0
        if counts.sum() == counts[self.vocabulary.background] + counts[IGNORE]:
            self.empty.append(image)

    @property
    def classes(self) -> int:
        """Number of classes that occur, background included."""
        return int((self.images > 0).sum())

    @property
    def foreground(self) -> float:
        """Share of known pixels that are foreground."""
        known = self.pixels[: len(self.vocabulary)]
        return _ratio(known.sum() - known[self.vocabulary.background], known.sum())

    @property
    def unknown(self) -> float:
        """Share of all pixels that are IGNORE."""
        return _ratio(self.pixels[IGNORE], self.pixels.sum())

    def shares(self) -> Iterable[tuple[str, float, float]]:
        """Yield for each class: label, share of maps that contain it, share of known pixels."""
        known = self.pixels[: len(self.vocabulary)].sum()
        for number, label in enumerate(self.vocabulary.labels):
            yield label, _ratio(self.images[number], self.maps), _ratio(self.pixels[number], known)

    @property
    def left_share(self) -> float | None:
        """Share of left parts in the pixels of left and right parts; about 0.5 over many crops.

        None if the vocabulary has no left and right parts or none occurs.
        """
        left, right = (
            sum(int(self.pixels[pair[side]]) for pair in self.vocabulary.mirror_pairs)
            for side in (0, 1)
        )
        return left / (left + right) if left + right else None


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else 0.0

"""What part maps hold: classes, foreground, maps of nobody, agreement with other maps."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pivl_distill.data.vocabulary import IGNORE, Vocabulary


class ConfusionMatrix:
    """Confusion of P classes with reference maps; pixels unknown in either are left out."""

    def __init__(self, parts: int) -> None:
        self.confusion = np.zeros((parts, parts), np.int64)
        """[P reference, P found]."""

    def add(self, reference: np.ndarray, found: np.ndarray) -> None:
        """Count class ids of any one shape, uint8, IGNORE where unknown."""
        known = (reference != IGNORE) & (found != IGNORE)
        parts = len(self.confusion)
        pairs = reference[known].astype(np.int64) * parts + found[known]
        self.confusion += np.bincount(pairs, minlength=parts**2).reshape(parts, parts)

    def iou(self) -> np.ndarray:
        """Intersection over union [P] of each class, NaN for a class in neither."""
        both = self.confusion.diagonal()
        either = self.confusion.sum(0) + self.confusion.sum(1) - both
        return np.where(either > 0, both / np.maximum(either, 1), np.nan)

    @property
    def mean_iou(self) -> float:
        """mIoU over the classes that occur, as the field reports it; NaN if none does."""
        iou = self.iou()
        return float(iou[~np.isnan(iou)].mean()) if not np.isnan(iou).all() else float("nan")


@dataclass
class MapStatistics:
    """Counts over maps of one vocabulary of P classes."""

    vocabulary: Vocabulary
    maps: int = 0
    pixels: np.ndarray = field(init=False)
    """int64 [256]: pixels of each value."""
    images: np.ndarray = field(init=False)
    """int64 [P]: maps that hold each class."""
    empty: list[Path] = field(default_factory=list)
    """Images whose map shows nobody."""

    def __post_init__(self) -> None:
        self.pixels = np.zeros(256, np.int64)
        self.images = np.zeros(len(self.vocabulary), np.int64)

    def add(self, image: Path, labels: np.ndarray) -> None:
        """Count one map, uint8 of any shape."""
        counts = np.bincount(labels.ravel(), minlength=256)
        self.maps += 1
        self.pixels += counts
        self.images += counts[: len(self.vocabulary)] > 0
        if counts.sum() == counts[self.vocabulary.background] + counts[IGNORE]:
            self.empty.append(image)

    @property
    def classes(self) -> int:
        """Classes that occur, background included."""
        return int((self.images > 0).sum())

    @property
    def foreground(self) -> float:
        """Share of the known pixels that show a person."""
        known = self.pixels[: len(self.vocabulary)]
        return _ratio(known.sum() - known[self.vocabulary.background], known.sum())

    @property
    def unknown(self) -> float:
        """Share of all pixels that have no class."""
        return _ratio(self.pixels[IGNORE], self.pixels.sum())

    def shares(self) -> Iterable[tuple[str, float, float]]:
        """Label, share of the maps that hold it, share of the known pixels, class by class."""
        known = self.pixels[: len(self.vocabulary)].sum()
        for number, label in enumerate(self.vocabulary.labels):
            yield label, _ratio(self.images[number], self.maps), _ratio(self.pixels[number], known)

    @property
    def left_share(self) -> float | None:
        """Of the pixels of a person's sides, the share of the left; about a half over many crops.

        None where the vocabulary has no sides or none was seen.
        """
        left, right = (
            sum(int(self.pixels[pair[side]]) for pair in self.vocabulary.mirror_pairs)
            for side in (0, 1)
        )
        return left / (left + right) if left + right else None


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else 0.0

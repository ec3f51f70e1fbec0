"""Post-process a parser's map: remap its vocabulary, drop other people and small parts.

All steps are off by default, because π-VL uses the parser's best class (readings 31).
"""

from __future__ import annotations

import cv2
import numpy as np

from pivl_distill.data.part_maps import PartMap
from pivl_distill.data.remap import remap_table
from pivl_distill.data.vocabulary import IGNORE, Vocabulary, get_vocabulary
from pivl_distill.parsing.settings import ParserSettings


class MapPostprocessor:
    """Apply the settings that all parsers share."""

    def __init__(self, settings: ParserSettings) -> None:
        self.source = get_vocabulary(settings.vocabulary)
        self.vocabulary = get_vocabulary(settings.to or settings.vocabulary)
        """Meaning of the class ids in the result."""
        self.table = remap_table(self.source, self.vocabulary)
        self.settings = settings

    def apply(self, part_map: PartMap) -> PartMap:
        """Return the map to write; the confidence is unchanged."""
        labels = part_map.labels
        if self.settings.largest_person:
            labels = keep_largest_person(labels, self.source)
        labels = self.table[labels]
        labels = drop_small_parts(labels, self.settings.min_area, self.vocabulary)
        return PartMap(labels, part_map.confidence)


def keep_largest_person(labels: np.ndarray, vocabulary: Vocabulary) -> np.ndarray:
    """Set all foreground except the largest connected region to IGNORE; uint8 [H, W].

    This removes other people and stray pixels. It cannot separate people who touch.
    """
    foreground = (labels != vocabulary.background) & (labels != IGNORE)
    _, region, stats, _ = cv2.connectedComponentsWithStats(foreground.astype(np.uint8))
    if len(stats) <= 2:  # the background and at most one region
        return labels
    largest = 1 + stats[1:, cv2.CC_STAT_AREA].argmax()
    return np.where(foreground & (region != largest), np.uint8(IGNORE), labels)


def drop_small_parts(labels: np.ndarray, min_area: float, vocabulary: Vocabulary) -> np.ndarray:
    """Set parts that cover less than the share `min_area` of the image to IGNORE; uint8 [H, W]."""
    counts = np.bincount(labels.ravel(), minlength=256)
    small = (counts > 0) & (counts < min_area * labels.size)
    small[[vocabulary.background, IGNORE]] = False
    return np.where(small[labels], np.uint8(IGNORE), labels)

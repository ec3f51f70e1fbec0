"""Thumbnails of crops, and the pixelation of heads on them.

By default heads are pixelated unless people are synthetic. The head is where a crop's part map has
head labels; where there is no such pixel, or no map, it is the whole upper quarter of the crop.
"""

from __future__ import annotations

import base64
import io
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from pivl_distill.data.vocabulary import Vocabulary
from pivl_distill.report.blocks import LeftOutError, Mark, Picture

Heads = Literal["auto", "pixelated", "shown"]
"""auto: pixelated unless people are synthetic."""

HEAD_LABELS = frozenset(
    (
        *("hat", "hair", "sunglasses", "glasses", "face", "head", "face_neck"),
        *("lower_lip", "upper_lip", "lower_teeth", "upper_teeth", "tongue"),
    )
)
"""Labels of all vocabularies, in lower case, that are part of a head."""
HEAD_SHARE = 0.25
"""Upper share of a crop that is pixelated if its map shows no head."""
MARGIN_SHARE = 0.15
"""Of the head's size, added on each side: maps miss pixels at the edges."""
BLOCKS = 3
"""Blocks of mean colour in place of a head, in each direction."""
MAX_WIDTH_PX, MAX_HEIGHT_PX = 64, 128
QUALITY = 75
"""Of WebP, 0 to 100."""


@dataclass(frozen=True)
class Pictures:
    """Makes the pictures of a page. `crops`: whether photographs are allowed at all."""

    crops: bool
    pixelated: bool
    synthetic: bool
    vocabulary: Vocabulary | None = None

    def statement(self) -> str:
        """Return the sentence of the page that says how photographs are shown."""
        if not self.crops:
            return "This page contains no photographs (--no-crops)."
        if not self.pixelated:
            who = "The people are synthetic; their" if self.synthetic else "The"
            return f"{who} heads are shown as they are."
        return (
            f"Heads are pixelated to {BLOCKS} × {BLOCKS} blocks: where the part map has head labels"
            f" and, in crops without such a map, in the whole upper {HEAD_SHARE:.0%} of the crop."
            " Clothes and posture may still identify people."
        )

    def require(self) -> None:
        """Raise LeftOutError if photographs are not allowed."""
        if not self.crops:
            raise LeftOutError("It consists of photographs, which --no-crops leaves out.")

    def protect(self, crop: np.ndarray, part_map: np.ndarray | None = None) -> np.ndarray:
        """Return a crop uint8 [H, W, 3] with its head pixelated, if this page does that.

        `part_map` is uint8 [H, W].
        """
        return pixelate_head(crop, part_map, self.vocabulary) if self.pixelated else crop

    def encode(
        self, pixels: np.ndarray, alt: str, *, mark: Mark | None = None, caption: str = ""
    ) -> Picture:
        """Return the thumbnail of uint8 RGB pixels [H, W, 3]; crops must be protected before.

        Args:
            pixels: of the picture; scaled down to at most 64 × 128 pixels.
            alt: what the picture shows, in words.
            mark: frame and sign of the picture.
            caption: text below the picture.
        """
        self.require()
        image = Image.fromarray(pixels)
        image.thumbnail((MAX_WIDTH_PX, MAX_HEIGHT_PX), Image.Resampling.BILINEAR)
        buffer = io.BytesIO()
        image.save(buffer, "WEBP", quality=QUALITY)
        uri = f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
        return Picture(uri, alt, image.width, image.height, mark, caption)


def pixelate_head(
    crop: np.ndarray, part_map: np.ndarray | None, vocabulary: Vocabulary | None
) -> np.ndarray:
    """Return a copy of a crop uint8 [H, W, 3] in which the head is blocks of mean colour."""
    top, bottom, left, right = head_box(crop.shape[:2], part_map, vocabulary)
    result = crop.copy()
    for rows in np.array_split(np.arange(top, bottom), BLOCKS):
        for columns in np.array_split(np.arange(left, right), BLOCKS):
            if len(rows) and len(columns):
                block = result[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
                block[:] = block.mean(axis=(0, 1)).round()
    return result


def head_box(
    size_hw: tuple[int, ...], part_map: np.ndarray | None, vocabulary: Vocabulary | None
) -> tuple[int, int, int, int]:
    """Return top, bottom, left and right of the head in pixels; the ends are exclusive."""
    height, width = size_hw
    if part_map is not None and vocabulary is not None:
        ids = [n for n, label in enumerate(vocabulary.labels) if label.lower() in HEAD_LABELS]
        rows, columns = np.nonzero(np.isin(part_map, ids))
        if rows.size:
            margin_y = 1 + int(MARGIN_SHARE * np.ptp(rows))
            margin_x = 1 + int(MARGIN_SHARE * np.ptp(columns))
            return (
                max(int(rows.min()) - margin_y, 0),
                min(int(rows.max()) + 1 + margin_y, height),
                max(int(columns.min()) - margin_x, 0),
                min(int(columns.max()) + 1 + margin_x, width),
            )
    return 0, math.ceil(HEAD_SHARE * height), 0, width

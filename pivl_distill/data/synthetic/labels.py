"""The LIP-20 label ids by name, as the renderer paints them, and the colours that show them."""

from __future__ import annotations

import numpy as np

from pivl_distill.data.vocabulary import LIP20

(
    BACKGROUND, HAT, HAIR, GLOVE, SUNGLASSES, UPPER, DRESS, COAT, SOCKS, PANTS,
    JUMPSUIT, SCARF, SKIRT, FACE, LEFT_ARM, RIGHT_ARM, LEFT_LEG, RIGHT_LEG, LEFT_SHOE, RIGHT_SHOE,
) = range(len(LIP20))  # fmt: skip

SKIN_LABELS = frozenset((FACE, LEFT_ARM, RIGHT_ARM, LEFT_LEG, RIGHT_LEG))


def colours() -> np.ndarray:
    """uint8 [20, 3]: the RGB palette of PASCAL VOC, in which parsers publish their maps.

    The bits of a label go round red, green and blue, the lowest bit to the highest intensity.
    """
    label = np.arange(len(LIP20))
    channels = [
        sum(((label >> (3 * bit + channel)) & 1) << (7 - bit) for bit in range(2))
        for channel in range(3)
    ]
    return np.stack(channels, axis=1).astype(np.uint8)

"""LIP-20 label ids by name."""

from __future__ import annotations

from pivl_distill.data.vocabulary import LIP20

(
    BACKGROUND, HAT, HAIR, GLOVE, SUNGLASSES, UPPER, DRESS, COAT, SOCKS, PANTS,
    JUMPSUIT, SCARF, SKIRT, FACE, LEFT_ARM, RIGHT_ARM, LEFT_LEG, RIGHT_LEG, LEFT_SHOE, RIGHT_SHOE,
) = range(len(LIP20))  # fmt: skip

SKIN_LABELS = frozenset((FACE, LEFT_ARM, RIGHT_ARM, LEFT_LEG, RIGHT_LEG))

"""What the uses of several sorts share."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import cache

import numpy as np
from PIL import Image

from pivl_distill.errors import PivlError


def use_each(*uses: Callable[[], object]) -> None:
    """Call all functions, also after a PivlError; raise the first PivlError at the end."""
    first: PivlError | None = None
    for use in uses:
        try:
            use()
        except PivlError as error:
            first = first or error
    if first is not None:
        raise first


@cache
def picture(file_format: str, mode: str = "RGB", seed: int = 0, **options: object) -> bytes:
    """Return an image file of 12×20 pixels of noise; in part maps, class ids below 6."""
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 6 if mode in ("P", "L", "LA") else 256, (20, 12, 3), dtype=np.uint8)
    if mode in ("P", "L"):
        image = Image.fromarray(noise[..., 0], "L").convert("L")
        if mode == "P":
            image.putpalette(bytes(range(256)) * 3)
    elif mode == "I;16":
        image = Image.fromarray(noise[..., 0].astype(np.uint16) * 256)
    else:
        image = Image.fromarray(noise).convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()

"""Planted trees of tiny images in the layouts of the real datasets."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

Plant = Callable[[Path, Iterable[str]], Path]


def tiny_image(seed: int, suffix: str) -> bytes:
    """An 8×16 image of its own noise; a text for what is no image."""
    kinds = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".bmp": "BMP"}
    if suffix.lower() not in kinds:
        return b"no image"
    noise = np.random.default_rng(seed).integers(0, 256, (16, 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, kinds[suffix.lower()])
    return buffer.getvalue()


@pytest.fixture
def plant() -> Plant:
    """`plant(root, names)` writes a different image at each name below the root."""
    planted = 0

    def write(root: Path, names: Iterable[str]) -> Path:
        nonlocal planted
        for name in names:
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(tiny_image(planted, path.suffix))
            planted += 1
        return root

    return write


@pytest.fixture
def reversed_listing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that lists folders in the opposite of their names' order."""
    listed = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda self: iter(sorted(listed(self))[::-1]))

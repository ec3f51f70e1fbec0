"""An Extractor of a small network's export, and crops for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pivl_distill.runtime import Extractor


@pytest.fixture(scope="module")
def extractor(deployed_once: Path) -> Extractor:
    return Extractor(deployed_once, threads=1)


@pytest.fixture(scope="module")
def crops() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (64, 64, 32, 3), dtype=np.uint8)

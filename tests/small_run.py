"""A small network, and the settings of a short training run for it."""

from __future__ import annotations

from pivl_distill.config import Stage2Settings
from stubs import MapStub

SETTINGS = Stage2Settings(epochs=3, identities_per_batch=6, crops_per_identity=1)
STEPS_PER_EPOCH = 4
"""Each of the six identities of `band_store` has four crops."""
STEPS = SETTINGS.epochs * STEPS_PER_EPOCH


def small_network() -> MapStub:
    """A convolution, whose weights are not contiguous in memory, dropout and batch norm."""
    return MapStub(8, 6, kernel_size=5, dropout=0.3)

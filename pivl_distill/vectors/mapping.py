"""Map the vectors of one network to those of another, by ridge regression.

The map is affine, and its result is normalised. It is fitted in closed form on crops that both
networks have embedded. The strength of the ridge is chosen on identities that the fit has not seen:
too little of it remembers the crops, too much returns the mean vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pivl_distill.errors import PivlError
from pivl_distill.vectors.unit import unit

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Ridges that are tried, relative to the mean variance of the old vectors."""
HELD_OUT = 0.2
"""Share of the identities on which the strength is chosen."""
_SEED = 4_211


@dataclass(frozen=True)
class VectorMap:
    """The affine map x → (x − old_mean) · matrix + new_mean, followed by normalisation."""

    old_mean: np.ndarray
    """float64 [F]."""
    matrix: np.ndarray
    """float64 [F, F']."""
    new_mean: np.ndarray
    """float64 [F']."""
    strength: float
    """Of the ridge, relative to the mean variance of the old vectors."""

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        """Return unit vectors float32 [N, F'] for vectors [N, F] of any length."""
        mapped = (unit(vectors) - self.old_mean) @ self.matrix + self.new_mean
        return unit(mapped).astype(np.float32)


def fit_ridge(old: np.ndarray, new: np.ndarray, strengths: Sequence[float]) -> list[VectorMap]:
    """Return the least-squares map of vectors [N, F] to [N, F'] for each strength of the ridge."""
    old, new = unit(old), unit(new)
    old_mean, new_mean = old.mean(0), new.mean(0)
    old, new = old - old_mean, new - new_mean
    variances, axes = np.linalg.eigh(old.T @ old)
    on_axes = axes.T @ (old.T @ new)
    ridges = [strength * max(variances.mean(), np.finfo(float).tiny) for strength in strengths]
    return [
        VectorMap(old_mean, axes @ (on_axes / (variances + ridge)[:, None]), new_mean, strength)
        for ridge, strength in zip(ridges, strengths, strict=True)
    ]


def fit_map(old: np.ndarray, new: np.ndarray, pids: np.ndarray) -> tuple[VectorMap, float]:
    """Fit the map of old to new vectors of the same N crops, and choose its ridge.

    Args:
        old: [N, F].
        new: [N, F'].
        pids: int64 [N], the identities; some of them are held out to choose the ridge.

    Returns:
        The map, fitted on all crops, and its mean cosine to the new vectors on the identities that
        were held out, both centred, so that what all vectors have in common does not count.

    Raises:
        PivlError: there are fewer than five identities.
    """
    people = np.unique(pids)
    if len(people) < 1 / HELD_OUT:
        raise PivlError(f"A map cannot be fitted on {len(people)} identities; use more data.")
    count = round(HELD_OUT * len(people))
    held_out = np.isin(pids, np.random.default_rng(_SEED).choice(people, count, replace=False))
    trials = fit_ridge(old[~held_out], new[~held_out], STRENGTHS)
    cosines = [_centred_cosine(trial, old[held_out], new[held_out]) for trial in trials]
    best = int(np.argmax(cosines))
    return fit_ridge(old, new, STRENGTHS[best : best + 1])[0], cosines[best]


def _centred_cosine(fitted: VectorMap, old: np.ndarray, new: np.ndarray) -> float:
    mapped = unit(fitted(old) - fitted.new_mean)
    return float((mapped * unit(unit(new) - fitted.new_mean)).sum(1).mean())

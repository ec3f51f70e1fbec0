"""Learning-rate schedules, as functions of the epoch only.

`smooth_cosine` (stage 1) and `floored_cosine` (stage 2) are this project's defaults and change with
every step. `cosine_per_epoch` (stage 1) and `multistep` (stage 2) are those of CLIP-ReID (Li et
al., AAAI 2023): one rate per epoch, epochs counted from 1.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence


def smooth_cosine(
    epoch: float, epochs: int, rate: float, minimum: float, warmup_epochs: float, start: float
) -> float:
    """Return a cosine from `rate` to `minimum`, times a linear warm-up from 0.

    Args:
        epoch: fractional epoch, from 0.
        epochs: length of the cosine.
        rate: learning rate at epoch 0, without warm-up.
        minimum: learning rate after `epochs`.
        warmup_epochs: length of the warm-up; 0 for none.
        start: epochs added to the warm-up, so that the rate of the first step is not 0.
    """
    cosine = minimum + (rate - minimum) * _half_cosine(epoch / epochs)
    return _warmup(epoch + start, warmup_epochs) * cosine


def floored_cosine(
    epoch: float, epochs: int, rate: float, minimum: float, warmup_epochs: float, start: float
) -> float:
    """Return a cosine from `rate` to 0, clamped to at least `minimum`, times a linear warm-up.

    The arguments are those of `smooth_cosine`.
    """
    cosine = max(minimum, rate * _half_cosine(epoch / epochs))
    return _warmup(epoch + start, warmup_epochs) * cosine


def cosine_per_epoch(
    epoch: int, epochs: int, rate: float, minimum: float, warmup_epochs: float, warmup_rate: float
) -> float:
    """Return a linear warm-up from `warmup_rate` to `rate`, then a cosine to `minimum`.

    The cosine is that of a schedule without warm-up: it does not start when the warm-up ends.

    Args:
        epoch: 1 to `epochs`.
        epochs: length of the cosine.
        rate: learning rate of the cosine at epoch 0.
        minimum: learning rate at the last epoch.
        warmup_epochs: length of the warm-up.
        warmup_rate: learning rate at epoch 0.
    """
    if epoch < warmup_epochs:
        return warmup_rate + epoch * (rate - warmup_rate) / warmup_epochs
    return minimum + (rate - minimum) * _half_cosine(epoch / epochs)


def multistep(
    epoch: int,
    rate: float,
    milestones: Sequence[int],
    gamma: float,
    warmup_epochs: float,
    warmup_factor: float,
) -> float:
    """Return `rate`, multiplied by `gamma` at each milestone, with a linear warm-up.

    Args:
        epoch: from 1.
        rate: learning rate before the first milestone.
        milestones: epochs from which the rate is multiplied by `gamma` (once more).
        gamma: decay factor.
        warmup_epochs: length of the warm-up.
        warmup_factor: factor of the rate at epoch 0, growing to 1.
    """
    rate *= gamma ** bisect.bisect_right(milestones, epoch)
    if epoch >= warmup_epochs:
        return rate
    share = epoch / warmup_epochs
    return rate * (warmup_factor * (1 - share) + share)


def _warmup(epoch: float, warmup_epochs: float) -> float:
    """Return the warm-up factor, 0 to 1; 1 without a warm-up."""
    return min(1.0, epoch / warmup_epochs) if warmup_epochs else 1.0


def _half_cosine(share: float) -> float:
    """Return a half cosine: 1 at `share` 0, 0 at `share` 1."""
    return 0.5 * (1 + math.cos(math.pi * share))

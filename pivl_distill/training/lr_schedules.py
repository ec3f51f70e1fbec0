"""Learning rates over time, as functions of the epoch alone.

`smooth_cosine` (stage 1) and `floored_cosine` (stage 2) are our own runs' and move with every step.
`cosine_per_epoch` (stage 1) and `multistep` (stage 2) are CLIP-ReID's (Li et al., AAAI 2023): one
rate per epoch, counted from 1.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence


def smooth_cosine(
    epoch: float, epochs: int, rate: float, minimum: float, warmup_epochs: float, start: float
) -> float:
    """A cosine from `rate` to `minimum` over `epochs`, times a linear warm-up from 0.

    `epoch` counts from 0, with its fraction; the warm-up begins as if `start` of an epoch had
    passed, so that the first step is not lost.
    """
    cosine = minimum + (rate - minimum) * _half_cosine(epoch / epochs)
    return _warmup(epoch + start, warmup_epochs) * cosine


def floored_cosine(
    epoch: float, epochs: int, rate: float, minimum: float, warmup_epochs: float, start: float
) -> float:
    """As `smooth_cosine`, but a cosine to 0 that stays at `minimum` once it is there."""
    cosine = max(minimum, rate * _half_cosine(epoch / epochs))
    return _warmup(epoch + start, warmup_epochs) * cosine


def cosine_per_epoch(
    epoch: int, epochs: int, rate: float, minimum: float, warmup_epochs: float, warmup_rate: float
) -> float:
    """A line from `warmup_rate` to `rate`, then a cosine to `minimum` as if it had run all along.

    `epoch` is 1 to `epochs`.
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
    """`rate`, times `gamma` from each milestone on, after a line from `warmup_factor` to 1.

    `epoch` counts from 1; milestones are epochs.
    """
    rate *= gamma ** bisect.bisect_right(milestones, epoch)
    if epoch >= warmup_epochs:
        return rate
    share = epoch / warmup_epochs
    return rate * (warmup_factor * (1 - share) + share)


def _warmup(epoch: float, warmup_epochs: float) -> float:
    """From 0 to 1 over the warm-up; 1 without one."""
    return min(1.0, epoch / warmup_epochs) if warmup_epochs else 1.0


def _half_cosine(share: float) -> float:
    """From 1 at 0 to 0 at 1."""
    return 0.5 * (1 + math.cos(math.pi * share))

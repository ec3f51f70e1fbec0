"""Operating thresholds: the cosine from which two crops count as the same person.

Retrieval only ranks; tracking must decide pair by pair. A threshold is chosen by its false-accept
rate (FAR), the share of impostor pairs (two people) that it accepts, and characterised by its
true-accept rate (TAR), the share of genuine pairs (one person) that it accepts; the terms are those
of ISO/IEC 19795-1. Pairs are query × gallery. If cameras are known, only pairs of different cameras
count, because crops of one camera share more than the person.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np

from pivl_distill.errors import PivlError
from pivl_distill.retrieval.similarity import UnitFeatures, exact_rows

FALSE_ACCEPT_RATES = (1e-2, 1e-3, 1e-4)
MIN_FALSE_ACCEPTS = 30
"""A rate is measured only if it implies at least this many false accepts. By Doddington's rule of
30 (Speech Communication 31, 2000), the true rate is then within 30 % of the measured one with 90 %
confidence, if trials are independent."""
_Z = 1.959964
"""Quantile of the standard normal distribution for two-sided 95 %."""


@dataclass(frozen=True)
class OperatingThreshold:
    """The lowest threshold whose false-accept rate is at most `far`.

    `cosine` and the true-accept rates are None if impostor pairs are too few to measure `far`.
    """

    far: float
    cosine: float | None
    """Pairs of at least this cosine are accepted."""
    tar: float | None
    tar_low: float | None
    """Lower end of the 95 % confidence interval of `tar`."""
    tar_high: float | None
    """Upper end of the 95 % confidence interval of `tar`."""
    impostor_pairs: int
    genuine_pairs: int


class Pairs(NamedTuple):
    """Pairs of some queries with the whole gallery: their rows, and masks bool [n, G]."""

    rows: slice
    genuine: np.ndarray
    impostor: np.ndarray


class _Scores(NamedTuple):
    """Similarities, float64, of all genuine and the most similar impostor pairs."""

    genuine: np.ndarray
    highest_impostors: np.ndarray  # descending
    impostor_pairs: int
    identities: int  # with a genuine pair


def operating_thresholds(
    query: np.ndarray,
    gallery: np.ndarray,
    query_pids: np.ndarray,
    gallery_pids: np.ndarray,
    query_camids: np.ndarray | None,
    gallery_camids: np.ndarray | None,
    *,
    rates: tuple[float, ...] = FALSE_ACCEPT_RATES,
    chunk: int = 256,
) -> tuple[OperatingThreshold, ...]:
    """Measure the threshold and true-accept rate at each of `rates`.

    The confidence interval is Wilson's with *identities* as trials, not pairs. Pairs of one person
    are dependent and can at most agree completely, so this is the widest interval that dependence
    within identities justifies. Unlike a bootstrap it needs no random numbers and does not collapse
    to a point when every pair is accepted. It treats the threshold as given: the uncertainty of the
    FAR is not included.

    Args:
        query: features [Q, F] of any length.
        gallery: features [G, F] of any length.
        query_pids: int [Q] identities.
        gallery_pids: int [G] identities; pid −1 (junk) is dropped, pid 0 (distractor) is an
            impostor.
        query_camids: int [Q] camera ids, or None if cameras are unknown.
        gallery_camids: int [G] camera ids, or None if cameras are unknown.
        rates: false-accept rates.
        chunk: queries per step. Memory is chunk × G similarities, all genuine pairs, and the share
            max(rates) of the impostor pairs, in float64.

    Raises:
        PivlError: features are not finite, or there is no genuine pair.
    """
    valid = gallery_pids != -1
    camids = None if gallery_camids is None else gallery_camids[valid]
    pairs = partial(comparable_pairs, query_pids, gallery_pids[valid], query_camids, camids, chunk)
    features = (
        UnitFeatures.from_raw(query, "query"),
        UnitFeatures.from_raw(gallery[valid], "gallery"),
    )
    scores = _score_pairs(*features, pairs, query_pids, max(rates))
    return tuple(_threshold(far, scores) for far in rates)


def comparable_pairs(
    query_pids: np.ndarray,
    gallery_pids: np.ndarray,
    query_camids: np.ndarray | None,
    gallery_camids: np.ndarray | None,
    chunk: int,
) -> Iterator[Pairs]:
    """Yield the pairs of `chunk` queries at a time; labels are those of `operating_thresholds`.

    Args:
        query_pids: int [Q] identities.
        gallery_pids: int [G] identities, without pid −1.
        query_camids: int [Q] camera ids, or None if cameras are unknown.
        gallery_camids: int [G] camera ids, or None if cameras are unknown.
        chunk: queries per step.
    """
    for start in range(0, len(query_pids), chunk):
        rows = slice(start, start + chunk)
        same = query_pids[rows, None] == gallery_pids
        other_camera = np.ones_like(same)
        if query_camids is not None and gallery_camids is not None:
            other_camera = query_camids[rows, None] != gallery_camids
        yield Pairs(rows, same & other_camera, ~same & other_camera)


def _score_pairs(
    query: UnitFeatures,
    gallery: UnitFeatures,
    pairs: Callable[[], Iterator[Pairs]],
    query_pids: np.ndarray,
    highest_rate: float,
) -> _Scores:
    """Compute the similarities that thresholds up to a false-accept rate depend on."""
    impostors = sum(int(np.count_nonzero(some.impostor)) for some in pairs())
    most_accepts = int(highest_rate * impostors)
    highest, genuine, pids = np.empty(0), [], []
    for some in pairs():
        similarity = exact_rows(query, gallery, some.rows).numpy()
        highest = _largest(np.append(highest, similarity[some.impostor]), most_accepts + 1)
        genuine.append(similarity[some.genuine])
        pids.append(query_pids[some.rows][np.nonzero(some.genuine)[0]])
    identities = len(np.unique(np.concatenate(pids)))
    if not identities:
        raise PivlError(
            "No genuine pairs: no person is in query and gallery under two cameras. Check that they"
            " share identities."
        )
    return _Scores(np.concatenate(genuine), highest, impostors, identities)


def _threshold(far: float, scores: _Scores) -> OperatingThreshold:
    accepts = int(far * scores.impostor_pairs)
    counts = (scores.impostor_pairs, len(scores.genuine))
    if accepts < MIN_FALSE_ACCEPTS:
        return OperatingThreshold(far, None, None, None, None, *counts)
    # The first impostor beyond the allowed ones must stay below the threshold.
    cosine = float(np.nextafter(scores.highest_impostors[accepts], np.inf))
    tar = float(np.mean(scores.genuine >= cosine))
    return OperatingThreshold(far, cosine, tar, *_wilson(tar, scores.identities), *counts)


def _largest(values: np.ndarray, count: int) -> np.ndarray:
    """Return the `count` largest values, or all if there are fewer, in descending order."""
    if len(values) > count:
        values = np.partition(values, len(values) - count)[-count:]
    return np.sort(values)[::-1]


def _wilson(share: float, trials: int) -> tuple[float, float]:
    """Return Wilson's 95 % score interval (JASA 22, 1927) of a share of `trials` trials."""
    centre = share + _Z**2 / (2 * trials)
    spread = _Z * np.sqrt(share * (1 - share) / trials + _Z**2 / (4 * trials**2))
    scale = 1 + _Z**2 / trials
    return max(0.0, float((centre - spread) / scale)), min(1.0, float((centre + spread) / scale))

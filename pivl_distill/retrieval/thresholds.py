"""Operating thresholds: from which cosine on two crops count as the same person.

Retrieval ranks; a device that follows people has to decide, pair by pair. A threshold is chosen by
the false-accept rate (FAR), the share of pairs of different people that it takes for one, and costs
a true-accept rate (TAR), the share of pairs of one person that it accepts (the terms of
ISO/IEC 19795-1). Pairs are query × gallery, under different cameras where cameras are known, for
crops of one camera are alike in more than the person.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pivl_distill.errors import PivlError
from pivl_distill.retrieval.similarity import UnitFeatures, exact_rows

FALSE_ACCEPT_RATES = (1e-2, 1e-3, 1e-4)
MIN_FALSE_ACCEPTS = 30
"""A rate is measured only where it leaves this many errors to count: Doddington's rule of 30
(Speech Communication 31, 2000), by which the true rate is within 30 % of the counted one, with 90 %
confidence, if trials are independent."""
_Z = 1.959964
"""Standard normal quantile of two-sided 95 %."""


@dataclass(frozen=True)
class OperatingThreshold:
    """Accept a pair from `cosine` on: the least value whose false-accept rate is at most `far`.

    `tar_low` and `tar_high` bound `tar` with 95 % confidence. Where the impostor pairs are too few
    to measure the rate, cosine and rates are None.
    """

    far: float
    cosine: float | None
    tar: float | None
    tar_low: float | None
    tar_high: float | None
    impostor_pairs: int
    genuine_pairs: int


class _Pairs(NamedTuple):
    """The pairs of some queries and the whole gallery, bool [q, G], and the queries' rows."""

    rows: slice
    genuine: np.ndarray
    impostor: np.ndarray


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
    """Thresholds of features [Q, F] against [G, F] at false-accept rates, one for each of `rates`.

    Gallery crops of pid −1 show nobody in full and are dropped; those of pid 0 are impostors. The
    confidence interval is Wilson's with *identities*, not pairs, as the trials: the pairs of one
    person succeed or fail together, and within an identity they can at most agree completely, so
    that this is the widest interval that any such dependence justifies. Unlike a bootstrap it
    neither needs random numbers nor collapses to a point where every pair is accepted. It holds
    for the threshold as a given number; that the FAR is an estimate too is not in it.

    Memory beyond float64 copies of the features is `chunk` × G, the genuine pairs and the share
    max(rates) of the impostor pairs. Raises PivlError if no person is seen under two cameras.
    """
    kept = gallery_pids != -1
    gallery_pids = gallery_pids[kept]
    gallery_camids = None if gallery_camids is None else gallery_camids[kept]
    query_unit = UnitFeatures.from_raw(query, "query")
    gallery_unit = UnitFeatures.from_raw(gallery[kept], "gallery")

    def pairs() -> Iterator[_Pairs]:
        for start in range(0, len(query), chunk):
            rows = slice(start, start + chunk)
            same = query_pids[rows, None] == gallery_pids
            apart = np.ones_like(same)
            if query_camids is not None and gallery_camids is not None:
                apart = query_camids[rows, None] != gallery_camids
            yield _Pairs(rows, same & apart, ~same & apart)

    impostors = sum(int(np.count_nonzero(some.impostor)) for some in pairs())
    most_accepts = int(max(rates) * impostors)
    highest, genuine, pids = np.empty(0), [], []
    for some in pairs():
        similarity = exact_rows(query_unit, gallery_unit, some.rows).numpy()
        highest = _largest(np.append(highest, similarity[some.impostor]), most_accepts + 1)
        genuine.append(similarity[some.genuine])
        pids.append(query_pids[some.rows][np.nonzero(some.genuine)[0]])
    similarities, identities = np.concatenate(genuine), len(np.unique(np.concatenate(pids)))
    if not identities:
        raise PivlError("No person is in query and gallery under two cameras: nothing to accept.")

    def at(far: float) -> OperatingThreshold:
        accepts = int(far * impostors)
        counts = (impostors, len(similarities))
        if accepts < MIN_FALSE_ACCEPTS:
            return OperatingThreshold(far, None, None, None, None, *counts)
        # The next impostor after the allowed ones must stay below the threshold.
        cosine = float(np.nextafter(highest[accepts], np.inf))
        tar = float(np.mean(similarities >= cosine))
        return OperatingThreshold(far, cosine, tar, *_wilson(tar, identities), *counts)

    return tuple(at(far) for far in rates)


def _largest(values: np.ndarray, count: int) -> np.ndarray:
    """The `count` largest values, or all if they are fewer, in falling order."""
    if len(values) > count:
        values = np.partition(values, len(values) - count)[-count:]
    return np.sort(values)[::-1]


def _wilson(share: float, trials: int) -> tuple[float, float]:
    """Wilson's score interval (JASA 22, 1927), 95 %, of a share seen in `trials` trials."""
    centre = share + _Z**2 / (2 * trials)
    spread = _Z * np.sqrt(share * (1 - share) / trials + _Z**2 / (4 * trials**2))
    scale = 1 + _Z**2 / trials
    return max(0.0, float((centre - spread) / scale)), min(1.0, float((centre + spread) / scale))

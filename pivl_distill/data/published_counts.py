"""Published counts of the public datasets, and the protocol by which each is read here.

Counts are those in the loaders of CLIP-ReID, Torchreid and FastReID; those of Occluded-Duke come
from its list files. Galleries are counted with distractors and without junk.
"""

from __future__ import annotations

from dataclasses import dataclass

Counts = dict[str, tuple[int, int, int]]
"""Split → (images, identities, cameras), as returned by `ReIDDataset.summary`."""


@dataclass(frozen=True)
class PublishedCounts:
    """Counts of a dataset, and a description of its protocol."""

    counts: Counts
    protocol: str


_MSMT17_TEST = {"query": (11_659, 3_060, 15), "gallery": (82_161, 3_060, 15)}

PUBLISHED = {
    "market1501": PublishedCounts(
        {"train": (12_936, 751, 6), "query": (3_368, 750, 6), "gallery": (15_913, 751, 6)},
        "junk (-1) left out, distractors (0000) kept as one identity of the gallery",
    ),
    "msmt17": PublishedCounts(
        {"train": (32_621, 1_041, 15), **_MSMT17_TEST},
        "trained on train + val, as CLIP-ReID (?val=no leaves val out)",
    ),
    "msmt17-no-val": PublishedCounts(
        {"train": (30_248, 1_041, 15), **_MSMT17_TEST},
        "trained on train without val, as Torchreid and FastReID",
    ),
    "dukemtmc": PublishedCounts(
        {"train": (16_522, 702, 8), "query": (2_228, 702, 8), "gallery": (17_661, 1_110, 8)},
        "408 identities of the gallery are distractors",
    ),
    "occluded_duke": PublishedCounts(
        {"train": (15_618, 702, 8), "query": (2_210, 519, 8), "gallery": (17_661, 1_110, 8)},
        "all queries are occluded",
    ),
}

"""Hold out training identities, to choose settings without looking at the test identities."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pivl_distill.data.records import Record, ReIDDataset
from pivl_distill.errors import PivlError

SEED = 1_709
"""Draws the held-out identities, so that every run of a data set holds out the same ones."""


def hold_out(dataset: ReIDDataset, identities: int) -> tuple[ReIDDataset, ReIDDataset | None]:
    """Split off `identities` random training identities; return the rest and the validation set.

    In the validation set the held-out crops are the gallery, and the first crop of each identity
    and camera is a query. Its training split is empty. Without identities to hold out, the data
    set is returned unchanged, with None.

    Raises: PivlError if fewer than two identities would remain for training, or if no held-out
        query has a match.
    """
    if not identities:
        return dataset, None
    pids = dataset.train_pids
    if identities > len(pids) - 2:
        raise PivlError(
            f"data.validation_identities holds out {identities} of {len(pids)} training"
            " identities; leave at least two to train on."
        )
    held_out = set(np.random.default_rng(SEED).choice(pids, identities, replace=False).tolist())
    gallery = tuple(record for record in dataset.train if record.pid in held_out)
    first: dict[tuple[int, int | None], Record] = {}
    for record in gallery:
        first.setdefault((record.pid, record.camid), record)
    if all(len({camera for p, camera in first if p == pid}) < 2 for pid in held_out):
        raise PivlError(
            f"None of the {identities} held-out identities of {dataset.name} was seen by two"
            " cameras, so nothing can be validated; set data.validation_identities to 0."
        )
    train = tuple(record for record in dataset.train if record.pid not in held_out)
    validation = replace(
        dataset, name=f"{dataset.name}, validation", train=(), query=tuple(first.values()),
        gallery=gallery,
    )  # fmt: skip
    return replace(dataset, train=train), validation

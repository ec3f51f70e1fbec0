"""P×K batches: P identities with K crops each, so that every batch holds positives and negatives.

The scheme is Hermans et al. (arXiv 1703.07737, 2017) with the epoch of `RandomIdentitySampler` in
CLIP-ReID: an epoch is a random partition of each identity's crops into groups of K, and every batch
takes one group of P random identities that have one left. One difference: an identity with fewer
than K crops shows each of them before any repeats. Left out on purpose: camera-aware sampling.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pivl_distill.errors import PivlError


@dataclass(frozen=True)
class Step:
    """Batch `number` (from 0) `of` its epoch: crop indices, and the epoch's random numbers."""

    epoch: int
    number: int
    steps_in_epoch: int
    batch: np.ndarray
    rng: np.random.Generator
    """Shared by the steps of the epoch, which draw from it one after the other."""

    @property
    def elapsed_epochs(self) -> float:
        """How many epochs have passed when the step begins, with the fraction."""
        return self.epoch + self.number / self.steps_in_epoch

    @property
    def ends_epoch(self) -> bool:
        """Whether no step of the epoch is left after this one."""
        return self.number == self.steps_in_epoch - 1


@dataclass(frozen=True)
class PKSampler:
    """Every step of a training, epoch after epoch; it depends on nothing but its fields."""

    pids: np.ndarray
    identities_per_batch: int
    crops_per_identity: int
    epochs: int
    seed: int
    shuffled: bool = False
    """Permutations of all crops in batches of P·K, instead of P×K."""

    def per_epoch(self) -> list[int]:
        """Steps of each epoch."""
        return [len(self._batches(epoch_rng(self.seed, epoch))) for epoch in range(self.epochs)]

    def __len__(self) -> int:
        return sum(self.per_epoch())

    def __iter__(self) -> Iterator[Step]:
        for epoch in range(self.epochs):
            rng = epoch_rng(self.seed, epoch)
            batches = self._batches(rng)
            for number, batch in enumerate(batches):
                yield Step(epoch, number, len(batches), batch, rng)

    def _batches(self, rng: np.random.Generator) -> list[np.ndarray]:
        p, k = self.identities_per_batch, self.crops_per_identity
        if self.shuffled:
            return shuffled_batches(len(self.pids), p * k, rng)
        return pk_batches(self.pids, p, k, rng)


def epoch_rng(seed: int, epoch: int) -> np.random.Generator:
    """An independent generator for one epoch: the data depend on nothing but seed and epoch."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(epoch,)))


def pk_batches(pids: np.ndarray, p: int, k: int, rng: np.random.Generator) -> list[np.ndarray]:
    """One epoch of batches, each int64 [p · k]: indices into `pids`, grouped by identity.

    What fills no group of K, and groups left when fewer than P identities remain, wait for another
    epoch. Raises PivlError if there are fewer than `p` identities.
    """
    identities = np.unique(pids)
    if len(identities) < p:
        raise PivlError(
            f"A batch takes {p} identities, but the training split has {len(identities)}. "
            "Lower the number of identities per batch or add people."
        )
    groups = [_groups(np.flatnonzero(pids == pid), k, rng) for pid in identities]
    left = np.array([len(of_identity) for of_identity in groups])
    batches = []
    while np.count_nonzero(left) >= p:
        chosen = rng.choice(np.flatnonzero(left), size=p, replace=False)
        left[chosen] -= 1
        batches.append(np.concatenate([groups[identity][left[identity]] for identity in chosen]))
    return batches


def _groups(crops: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    """[n, k]: the shuffled crops of one identity in full groups of K, at least one."""
    shuffled = rng.permutation(crops)
    if len(shuffled) < k:
        shuffled = np.concatenate([shuffled, rng.choice(crops, k - len(crops))])
    return shuffled[: len(shuffled) // k * k].reshape(-1, k)


def shuffled_batches(count: int, size: int, rng: np.random.Generator) -> list[np.ndarray]:
    """One epoch of all `count` crops in random order, each batch int64 [size], the last the rest.

    This is how CLIP-ReID's stage 1 sees its crops.
    """
    order = rng.permutation(count)
    return [order[start : start + size] for start in range(0, count, size)]

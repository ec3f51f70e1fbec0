"""P×K sampling: batches of P identities with K crops each, so that batches have positives.

The scheme is that of Hermans et al. (arXiv 1703.07737, 2017), with the epochs of CLIP-ReID's
`RandomIdentitySampler`: each epoch randomly partitions the crops of each identity into groups of K,
and each batch takes one group from each of P random identities that have groups left. One
difference: an identity with fewer than K crops shows each of them once before repeating any. Left
out on purpose: camera-aware sampling.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pivl_distill.errors import PivlError


@dataclass(frozen=True)
class Step:
    """One training step: batch `number` (from 0) of an epoch, as crop indices int64 [B]."""

    epoch: int
    number: int
    steps_in_epoch: int
    batch: np.ndarray
    rng: np.random.Generator
    """Random generator of the epoch; its steps draw from it in order."""

    @property
    def elapsed_epochs(self) -> float:
        """Epochs completed before the step, as a fractional number."""
        return self.epoch + self.number / self.steps_in_epoch

    @property
    def ends_epoch(self) -> bool:
        """Whether this is the last step of its epoch."""
        return self.number == self.steps_in_epoch - 1

    def describe(self, epochs: int) -> str:
        """Return "epoch 2 of 9, step 3 of 40", counted from 1; `epochs` are those of the stage."""
        epoch, number = self.epoch + 1, self.number + 1
        return f"epoch {epoch} of {epochs}, step {number} of {self.steps_in_epoch}"


@dataclass(frozen=True)
class PKSampler:
    """All steps of a training run in order; they depend on the fields only."""

    pids: np.ndarray
    identities_per_batch: int
    crops_per_identity: int
    epochs: int
    seed: int
    shuffled: bool = False
    """Use random permutations of all crops in batches of P·K, instead of P×K sampling."""
    full_batches: bool = False
    """Leave out a last shuffled batch of fewer than P·K crops, unless it is the only one."""

    def per_epoch(self) -> list[int]:
        """Number of steps of each epoch."""
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
            batches = shuffled_batches(len(self.pids), p * k, rng)
            partial = self.full_batches and len(self.pids) % (p * k) and len(batches) > 1
            return batches[:-1] if partial else batches
        return pk_batches(self.pids, p, k, rng)


def epoch_rng(seed: int, epoch: int) -> np.random.Generator:
    """Return an independent random generator for one epoch, from seed and epoch only."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(epoch,)))


def derived_rng(rng: np.random.Generator) -> np.random.Generator:
    """Return a generator that the state of `rng` determines, and leave `rng` unchanged."""
    state: int = rng.bit_generator.state["state"]["state"]
    return np.random.default_rng(state)


def pk_batches(pids: np.ndarray, p: int, k: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Return one epoch of batches, each int64 [p · k]: indices into `pids`, grouped by identity.

    Crops that do not fill a group of K, and groups left when fewer than P identities remain, are
    skipped in this epoch. Raises PivlError if there are fewer than `p` identities.
    """
    check_identities(pids, p)
    identities = np.unique(pids)
    groups = [_groups(np.flatnonzero(pids == pid), k, rng) for pid in identities]
    remaining = np.array([len(identity_groups) for identity_groups in groups])
    batches = []
    while np.count_nonzero(remaining) >= p:
        chosen = rng.choice(np.flatnonzero(remaining), size=p, replace=False)
        remaining[chosen] -= 1
        batches.append(np.concatenate([groups[index][remaining[index]] for index in chosen]))
    return batches


def check_identities(pids: np.ndarray, p: int, setting: str = "identities_per_batch") -> None:
    """Raise PivlError, which names the `setting`, if `pids` are of fewer than `p` identities."""
    if (identities := len(np.unique(pids))) < p:
        raise PivlError(
            f"{setting} is {p}, but the training split has {identities} identities; lower it to"
            f" {identities} or less, or add identities."
        )


def _groups(crops: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    """Shuffle the crops of one identity into full groups of K, at least one: [n, k]."""
    shuffled = rng.permutation(crops)
    if len(shuffled) < k:
        shuffled = np.concatenate([shuffled, rng.choice(crops, k - len(crops))])
    return shuffled[: len(shuffled) // k * k].reshape(-1, k)


def shuffled_batches(count: int, size: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Return one epoch of `count` crops in random order, as batches int64 [size].

    The last batch may be smaller. CLIP-ReID's stage 1 uses such batches.
    """
    order = rng.permutation(count)
    return [order[start : start + size] for start in range(0, count, size)]

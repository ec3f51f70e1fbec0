"""P×K sampling: properties of batches and epochs."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from pivl_distill.data.sampling import (
    PKSampler,
    derived_rng,
    epoch_rng,
    pk_batches,
    shuffled_batches,
)
from pivl_distill.errors import PivlError

PIDS = np.random.default_rng(0).permutation(np.repeat([3, 8, 9, 20, 21, 40], [9, 8, 4, 2, 7, 12]))


def test_each_batch_has_p_identities_with_k_crops() -> None:
    batches = pk_batches(PIDS, 3, 4, epoch_rng(0, 0))
    assert batches
    for batch in batches:
        assert batch.shape == (12,)
        groups = PIDS[batch].reshape(3, 4)
        assert (groups == groups[:, :1]).all()
        assert len(set(groups[:, 0])) == 3


def test_crop_occurs_at_most_once_per_epoch_unless_its_identity_is_short() -> None:
    for epoch in range(20):
        shown = Counter(np.concatenate(pk_batches(PIDS, 3, 4, epoch_rng(0, epoch))).tolist())
        assert {PIDS[crop] for crop, times in shown.items() if times > 1} <= {20}


def test_short_identity_uses_all_its_crops() -> None:
    pids = np.array([1, 1, 2, 2, 2, 2])
    (batch,) = pk_batches(pids, 2, 4, epoch_rng(0, 0))
    assert set(batch.tolist()) == {0, 1, 2, 3, 4, 5}


def test_an_epoch_runs_until_fewer_than_p_identities_have_a_group() -> None:
    groups = {3: 2, 8: 2, 9: 1, 20: 1, 21: 1, 40: 3}
    for epoch in range(20):
        batches = pk_batches(PIDS, 3, 4, epoch_rng(1, epoch))
        used = Counter(np.concatenate([PIDS[batch[::4]] for batch in batches]).tolist())
        left = [pid for pid, count in groups.items() if count > used[pid]]
        assert all(used[pid] <= count for pid, count in groups.items())
        assert len(left) < 3


def test_every_crop_occurs_over_epochs() -> None:
    drawn: set[int] = set()
    for epoch in range(30):
        drawn.update(np.concatenate(pk_batches(PIDS, 3, 4, epoch_rng(0, epoch))).tolist())
    assert drawn == set(range(len(PIDS)))


def test_order_depends_on_seed_and_epoch_only() -> None:
    def epoch(seed: int, number: int) -> np.ndarray:
        return np.concatenate(pk_batches(PIDS, 3, 4, epoch_rng(seed, number)))

    np.testing.assert_array_equal(epoch(5, 2), epoch(5, 2))
    streams = [
        epoch_rng(seed, number).integers(1 << 62) for seed in range(9) for number in range(9)
    ]
    assert len(set(streams)) == 81


def test_too_few_identities_is_an_error() -> None:
    with pytest.raises(PivlError, match="identities_per_batch is 7, but the training split has 6"):
        pk_batches(PIDS, 7, 4, epoch_rng(0, 0))


def test_sampler_yields_the_batches_of_its_epochs() -> None:
    schedule = PKSampler(PIDS, identities_per_batch=3, crops_per_identity=4, epochs=3, seed=5)
    steps = list(schedule)
    expected = [pk_batches(PIDS, 3, 4, epoch_rng(5, epoch)) for epoch in range(3)]
    assert len(schedule) == len(steps) == sum(map(len, expected))
    for step in steps:
        np.testing.assert_array_equal(step.batch, expected[step.epoch][step.number])
        assert step.steps_in_epoch == len(expected[step.epoch])
        assert step.ends_epoch == (step.number + 1 == step.steps_in_epoch)
        assert step.elapsed_epochs == step.epoch + step.number / step.steps_in_epoch
    assert sum(step.ends_epoch for step in steps) == 3


def test_steps_of_an_epoch_share_its_generator() -> None:
    steps = list(PKSampler(PIDS, 3, 4, epochs=2, seed=5))
    assert len({id(step.rng) for step in steps}) == 2
    rng = epoch_rng(5, 1)
    pk_batches(PIDS, 3, 4, rng)  # drawn from it first
    assert steps[-1].rng.integers(1 << 62) == rng.integers(1 << 62)


def test_shuffled_epoch_has_every_crop_once() -> None:
    batches = shuffled_batches(10, 4, np.random.default_rng(0))
    assert [len(batch) for batch in batches] == [4, 4, 2]
    assert sorted(np.concatenate(batches)) == list(range(10))
    again = shuffled_batches(10, 4, np.random.default_rng(1))
    assert not np.array_equal(np.concatenate(batches), np.concatenate(again))
    assert [len(batch) for batch in shuffled_batches(8, 4, np.random.default_rng(0))] == [4, 4]


def test_sampler_can_yield_permutations() -> None:
    schedule = PKSampler(PIDS, 3, 4, epochs=2, seed=5, shuffled=True)
    assert schedule.per_epoch() == [4, 4]  # 42 crops, 12 at a time
    expected = shuffled_batches(len(PIDS), 12, epoch_rng(5, 1))
    for step, batch in zip(list(schedule)[4:], expected, strict=True):
        np.testing.assert_array_equal(step.batch, batch)


@pytest.mark.parametrize(("count", "expected"), [(42, [12, 12, 12]), (36, [12] * 3), (7, [7])])
def test_partial_shuffled_batches_may_be_left_out(count: int, expected: list[int]) -> None:
    pids = np.arange(count)
    full = PKSampler(pids, 3, 4, epochs=2, seed=5, shuffled=True, full_batches=True)
    every = PKSampler(pids, 3, 4, epochs=2, seed=5, shuffled=True)
    assert [len(step.batch) for step in full] == expected * 2
    assert full.per_epoch() == [len(expected)] * 2
    kept = [step.batch.tolist() for step in every if len(step.batch) == 12 or count < 12]
    assert [step.batch.tolist() for step in full] == kept


def test_a_derived_generator_leaves_its_source_unchanged() -> None:
    rng, same = epoch_rng(3, 1), epoch_rng(3, 1)
    first = derived_rng(rng).random(4)
    assert np.array_equal(derived_rng(same).random(4), first)
    assert rng.random() == same.random() == epoch_rng(3, 1).random()
    assert not np.array_equal(derived_rng(rng).random(4), first)

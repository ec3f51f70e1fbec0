"""Held-out training identities: disjoint, always the same, evaluated by the usual protocol."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pivl_distill.data.datasets import load_dataset
from pivl_distill.data.records import Record, ReIDDataset
from pivl_distill.data.validation import hold_out
from pivl_distill.errors import PivlError


@pytest.fixture(scope="module")
def tiny() -> ReIDDataset:
    return load_dataset("synthetic:tiny")


def dataset_of(*labels: tuple[int, int | None]) -> ReIDDataset:
    records = tuple(Record(Path(f"{n}.png"), pid, camid) for n, (pid, camid) in enumerate(labels))
    return ReIDDataset("six", Path(), records, (), ())


def test_without_identities_the_data_set_is_unchanged(tiny: ReIDDataset) -> None:
    assert hold_out(tiny, 0) == (tiny, None)


def test_training_and_validation_share_no_identity_and_lose_no_crop(tiny: ReIDDataset) -> None:
    train, validation = hold_out(tiny, 3)
    assert validation is not None
    held_out = {record.pid for record in validation.gallery}
    assert len(held_out) == 3
    assert held_out.isdisjoint(train.train_pids)
    assert held_out | set(train.train_pids) == set(tiny.train_pids)
    assert sorted(train.train + validation.gallery, key=str) == sorted(tiny.train, key=str)
    assert (train.query, train.gallery) == (tiny.query, tiny.gallery)
    assert validation.train == ()


def test_the_same_identities_are_held_out_every_time(tiny: ReIDDataset) -> None:
    first, second = hold_out(tiny, 3), hold_out(load_dataset("synthetic:tiny"), 3)
    assert first == second
    backwards = replace(tiny, train=tiny.train[::-1])
    assert hold_out(backwards, 3)[0].train_pids == first[0].train_pids


def test_queries_are_the_first_crop_of_each_identity_and_camera(tiny: ReIDDataset) -> None:
    _, validation = hold_out(tiny, 3)
    assert validation is not None
    queries = [(record.pid, record.camid) for record in validation.query]
    assert len(set(queries)) == len(queries)
    assert set(queries) == {(record.pid, record.camid) for record in validation.gallery}
    for query in validation.query:
        same = [r for r in validation.gallery if (r.pid, r.camid) == (query.pid, query.camid)]
        assert query == same[0]


@pytest.mark.parametrize("identities", [7, 8, 99])
def test_two_identities_must_remain(tiny: ReIDDataset, identities: int) -> None:
    with pytest.raises(PivlError, match=f"holds out {identities} of 8 training identities"):
        hold_out(tiny, identities)


@pytest.mark.parametrize("camid", [0, None])
def test_identities_of_one_camera_cannot_be_validated(camid: int | None) -> None:
    dataset = dataset_of(*((pid, camid) for pid in range(6) for _ in range(2)))
    with pytest.raises(PivlError, match=r"None of the 2 held-out .* two cameras"):
        hold_out(dataset, 2)

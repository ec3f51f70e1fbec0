"""Ids of vector spaces, and which vectors may be compared."""

from __future__ import annotations

import hashlib
import json
import logging

import numpy as np
import pytest

from pivl_distill.errors import PivlError
from pivl_distill.vectors.space import (
    VectorSpace,
    array_digest,
    check_comparable,
    space_from_metadata,
    space_id,
)

OLD, NEW = VectorSpace("0" * 32), VectorSpace("1" * 32)
COMPATIBLE = VectorSpace("2" * 32, (OLD.id,))


def test_an_id_is_a_hash_of_weights_preprocessing_and_dimension() -> None:
    parts = {"weights": ["a", "b"], "preprocessing": {"size_hw": [2, 1]}, "dim": 3}
    expected = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]
    assert space_id(iter(["b", "a"]), {"size_hw": (2, 1)}, 3) == expected
    others = [
        space_id(["a", "c"], {"size_hw": (2, 1)}, 3),
        space_id(["a", "b"], {"size_hw": (1, 2)}, 3),
        space_id(["a", "b"], {"size_hw": (2, 1)}, 4),
    ]
    assert len({expected, *others}) == 4


def test_the_digest_of_an_array_depends_on_values_and_shape_only() -> None:
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert array_digest(values) == array_digest(np.asfortranarray(values))
    assert array_digest(values) == array_digest(values.astype(np.float64))
    assert len({array_digest(v) for v in (values, values.reshape(3, 2), values + 1)}) == 3


def test_metadata_makes_a_round_trip() -> None:
    for space in (NEW, COMPATIBLE):
        assert space_from_metadata(json.loads(json.dumps(space.metadata()))) == space
    assert space_from_metadata({}) is None


@pytest.mark.parametrize(
    "metadata",
    [
        {"vector_space": 5},
        {"vector_space": "F" * 32},
        {"vector_space": "0" * 31},
        {"vector_space": "0" * 32, "compatible_with": "0" * 32},
        {"vector_space": "0" * 32, "compatible_with": ["x"]},
        {"vector_space": "0" * 32, "compatible_with": ["0" * 32] * 65},
    ],
)
def test_what_is_no_space_is_refused(metadata: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"not"):
        space_from_metadata(metadata)


def test_vectors_of_one_network_or_of_compatible_ones_are_compared() -> None:
    for pair in ((OLD, OLD), (OLD, COMPATIBLE), (COMPATIBLE, OLD)):
        check_comparable(pair[0], "a", pair[1], "b")
    with pytest.raises(PivlError, match=r"vectors of a .*space 1{32}.* of b .*migrate"):
        check_comparable(NEW, "a", OLD, "b")
    with pytest.raises(PivlError, match="--compatible-with"):
        check_comparable(NEW, "a", COMPATIBLE, "b")


def test_an_unknown_space_is_accepted_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        check_comparable(None, "old.npz", NEW, "the network")
    assert "old.npz does not say which network" in caplog.text
    assert len(caplog.records) == 1

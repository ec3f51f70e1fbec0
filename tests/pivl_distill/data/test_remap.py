"""Mappings between vocabularies: every class is mapped to its published equivalent or dropped."""

from __future__ import annotations

import numpy as np
import pytest

from pivl_distill.data.remap import REMAPS, remap_table
from pivl_distill.data.vocabulary import (
    ATR18,
    COARSE6,
    IGNORE,
    LIP20,
    PASCAL7,
    VOCABULARIES,
    get_vocabulary,
)
from pivl_distill.errors import PivlError

NONE = IGNORE
TO_LIP = {
    "atr18": [0, 1, 2, 4, 5, 12, 9, 6, NONE, 18, 19, 13, 16, 17, 14, 15, NONE, 11],
    "cihp20": [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, NONE, 11, 12, 13, 14, 15, 16, 17, 18, 19],
    "fashn18": [0, 13, 2, 5, 6, 12, 9, NONE, NONE, 1, 11, 4, *[NONE] * 6],
    "sapiens28": [
        0, NONE, 13, 2, 16, 14, 14, 16, 18, 8, 14, 16, 9, 17, 15, 15, 17, 19, 8, 15, 17, NONE, 5,
        *[13] * 5,
    ],
}  # fmt: skip
TO_COARSE = {
    "lip20": [0, 1, 1, 2, 1, 2, 2, 2, 4, 4, 2, 1, 4, 1, 3, 3, 4, 4, 5, 5],
    "atr18": [0, 1, 1, 1, 2, 4, 4, 2, NONE, 5, 5, 1, 4, 4, 3, 3, NONE, 1],
    "cihp20": [0, 1, 1, 2, 1, 2, 2, 2, 4, 4, 2, 1, 4, 1, 3, 3, 4, 4, 5, 5],
    "pascal7": [0, 1, 2, 3, 3, 4, 4],
    "fashn18": [0, 1, 1, 2, 2, 4, 4, NONE, NONE, 1, 1, 1, 3, 3, 4, 5, 2, NONE],
    "sapiens28": [
        0, NONE, 1, 1, 5, 3, 3, 4, 5, 4, 3, 4, 4, 5, 3, 3, 4, 5, 4, 3, 4, 2, 2, *[1] * 5,
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [(name, "lip20", ids) for name, ids in TO_LIP.items()]
    + [(name, "coarse6", ids) for name, ids in TO_COARSE.items()],
)
def test_each_class_maps_to_its_equivalent(source: str, target: str, expected: list[int]) -> None:
    table = remap_table(get_vocabulary(source), get_vocabulary(target))
    assert table[: len(expected)].tolist() == expected
    assert (table[len(expected) :] == IGNORE).all()


@pytest.mark.parametrize("remap", REMAPS.values(), ids=lambda r: f"{r.source}-{r.target}")
def test_every_class_is_mapped_or_named_as_unknown(remap) -> None:
    source = get_vocabulary(remap.source)
    lost = {label for label, v in zip(source.labels, remap.table, strict=False) if v == IGNORE}
    assert lost == set(remap.unknown)
    assert set(remap.unknown) <= set(source.labels)
    assert remap.table[source.background] == get_vocabulary(remap.target).background


@pytest.mark.parametrize("remap", REMAPS.values(), ids=lambda r: f"{r.source}-{r.target}")
def test_remapping_and_mirroring_commute(remap) -> None:
    """The map of a mirrored image is the same whether labels are swapped before or after."""
    source, target = get_vocabulary(remap.source), get_vocabulary(remap.target)
    np.testing.assert_array_equal(
        remap.table[source.mirror], target.mirror[remap.table][np.arange(256)]
    )


@pytest.mark.parametrize("name", ["atr18", "sapiens28", "fashn18"])
def test_coarse_classes_are_the_same_through_lip20(name: str) -> None:
    """A class that LIP has too is in the same coarse group directly and through LIP."""
    direct = remap_table(get_vocabulary(name), COARSE6)
    detour = remap_table(LIP20, COARSE6)[remap_table(get_vocabulary(name), LIP20)]
    known = detour != IGNORE
    feet = [
        get_vocabulary(name).labels.index(f"{s}_Foot")
        for s in ("Left", "Right")
        if f"{s}_Foot" in get_vocabulary(name).labels
    ]
    known[feet] = False  # LIP has no feet, only legs and shoes
    np.testing.assert_array_equal(direct[known], detour[known])


@pytest.mark.parametrize("vocabulary", VOCABULARIES.values(), ids=VOCABULARIES)
def test_mapping_to_the_same_vocabulary_is_the_identity(vocabulary) -> None:
    np.testing.assert_array_equal(remap_table(vocabulary, vocabulary), np.arange(256))


def test_error_without_a_mapping_lists_the_defined_ones() -> None:
    with pytest.raises(PivlError, match=r"from pascal7 to lip20 is .* can be mapped to coarse6"):
        remap_table(PASCAL7, LIP20)
    with pytest.raises(PivlError, match="can be mapped to no other vocabulary"):
        remap_table(COARSE6, ATR18)

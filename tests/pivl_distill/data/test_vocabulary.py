"""The part vocabulary: ids as published, words for prompts, sides that swap in a mirror."""

from __future__ import annotations

import numpy as np
import pytest

from pivl_distill.data.vocabulary import IGNORE, LIP20, VOCABULARIES, get_vocabulary
from pivl_distill.errors import PivlError


def test_lip_has_its_published_ids() -> None:
    assert len(LIP20) == 20
    published = {"Background": 0, "Hat": 1, "Face": 13, "Left-arm": 14, "Right-shoe": 19}
    assert {label: LIP20.index(label) for label in published} == published


def test_an_unknown_label_is_answered_with_the_nearest() -> None:
    with pytest.raises(PivlError, match="Unknown lip20 label 'hat'; did you mean 'Hat'"):
        LIP20.index("hat")


@pytest.mark.parametrize("vocabulary", VOCABULARIES.values(), ids=VOCABULARIES)
def test_every_label_has_words_of_its_own(vocabulary) -> None:
    assert len(set(vocabulary.words)) == len(vocabulary.words) == len(vocabulary.labels)
    assert all(words == words.lower() and "-" not in words for words in vocabulary.words)
    assert len(vocabulary) < IGNORE


@pytest.mark.parametrize("vocabulary", VOCABULARIES.values(), ids=VOCABULARIES)
def test_a_mirror_swaps_left_and_right_and_nothing_else(vocabulary) -> None:
    table = vocabulary.mirror
    np.testing.assert_array_equal(table[table], np.arange(256))
    for number, label in enumerate(vocabulary.labels):
        swap = {"Left": "Right", "Right": "Left"}
        side, _, rest = label.partition("-")
        expected = f"{swap[side]}-{rest}" if side in swap else label
        assert vocabulary.labels[table[number]] == expected
    assert table[IGNORE] == IGNORE


def test_vocabularies_are_found_by_name() -> None:
    assert get_vocabulary("lip20") is LIP20
    with pytest.raises(PivlError, match="Unknown part vocabulary 'lip'; did you mean 'lip20'"):
        get_vocabulary("lip")

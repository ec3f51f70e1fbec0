"""Part vocabularies: published ids, words for prompts, mirrored labels."""

from __future__ import annotations

import numpy as np
import pytest

from pivl_distill.data.vocabulary import (
    IGNORE,
    LIP20,
    VOCABULARIES,
    get_vocabulary,
    voc_palette,
)
from pivl_distill.errors import PivlError


def test_lip_ids_are_the_published_ones() -> None:
    assert len(LIP20) == 20
    published = {"Background": 0, "Hat": 1, "Face": 13, "Left-arm": 14, "Right-shoe": 19}
    assert {label: LIP20.index(label) for label in published} == published


def test_prompt_words_are_plain_or_published() -> None:
    assert [LIP20.prompt_words(kind)[5] for kind in ("plain", "raw")] == [
        "upper clothes",
        "Upper-clothes",
    ]


def test_other_ids_are_the_published_ones() -> None:
    published = {
        "atr18": {"Belt": 8, "Left-shoe": 9, "Face": 11, "Right-arm": 15, "Bag": 16, "Scarf": 17},
        "cihp20": {"Pants": 9, "Torso-skin": 10, "Scarf": 11, "Right-shoe": 19},
        "pascal7": {"Head": 1, "Upper Arms": 3, "Lower Legs": 6},
        "fashn18": {"face": 1, "belt": 7, "glasses": 11, "feet": 15, "jewelry": 17},
        "sapiens28": {
            "Left_Foot": 4,
            "Left_Upper_Leg": 11,
            "Lower_Clothing": 12,
            "Right_Foot": 13,
            "Right_Upper_Leg": 20,
            "Torso": 21,
            "Tongue": 27,
        },
        "coarse6": {"Head": 1, "Shoes": 5},
    }
    for name, labels in published.items():
        vocabulary = get_vocabulary(name)
        assert str(len(vocabulary)) == name.lstrip("abcdefghijklmnopqrstuvwxyz")
        assert {label: vocabulary.index(label) for label in labels} == labels
        assert vocabulary.labels[vocabulary.background].lower() == "background"


def test_palette_is_pascal_voc() -> None:
    colours = voc_palette(256)
    assert colours[:5].tolist() == [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0], [0, 0, 128]]
    assert colours[15].tolist() == [192, 128, 128]
    assert colours[IGNORE].tolist() == [224, 224, 192]
    assert len({tuple(colour) for colour in colours.tolist()}) == 256
    np.testing.assert_array_equal(LIP20.palette, colours[:20])


def test_unknown_label_suggests_the_nearest() -> None:
    with pytest.raises(PivlError, match="Unknown lip20 label 'hat'; did you mean 'Hat'"):
        LIP20.index("hat")


@pytest.mark.parametrize("vocabulary", VOCABULARIES.values(), ids=VOCABULARIES)
def test_words_of_labels_are_distinct(vocabulary) -> None:
    assert len(set(vocabulary.words)) == len(vocabulary.words) == len(vocabulary.labels)
    assert all(words == words.lower() and "-" not in words for words in vocabulary.words)
    assert len(vocabulary) < IGNORE


@pytest.mark.parametrize("vocabulary", VOCABULARIES.values(), ids=VOCABULARIES)
def test_mirror_swaps_only_left_and_right(vocabulary) -> None:
    table = vocabulary.mirror
    np.testing.assert_array_equal(table[table], np.arange(256))
    for number, label in enumerate(vocabulary.labels):
        swapped = {"Left": label.replace("Left", "Right"), "Righ": label.replace("Right", "Left")}
        assert vocabulary.labels[table[number]] == swapped.get(label[:4], label)
    assert table[IGNORE] == IGNORE


def test_vocabularies_are_found_by_name() -> None:
    assert get_vocabulary("lip20") is LIP20
    with pytest.raises(PivlError, match="Unknown part vocabulary 'lip'; did you mean 'lip20'"):
        get_vocabulary("lip")

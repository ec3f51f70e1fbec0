"""Captions and part phrases of made-up attributes."""

from __future__ import annotations

from pathlib import Path

import pytest
import scipy.io
from click.testing import CliRunner

from benchmarks.market1501.captions import (
    caption,
    main,
    part_phrases,
    person,
    read_people,
    traits,
    vocabulary_texts,
)
from market_files import PIDS, PLAIN, write_attributes
from pivl_distill.data.vocabulary import PASCAL7
from pivl_distill.errors import PivlError
from teachers.text_encoder import UNKNOWN_ROW, Tokenizer, used_token_ids

WOMAN = PLAIN | {"gender": 2, "age": 2, "hair": 2, "hat": 2, "handbag": 2, "backpack": 2}
SUMMER = {"up": 2, "upred": 2, "down": 2, "downblue": 2, "clothes": 2}


def phrases(values: dict[str, int]) -> dict[str, str]:
    return {PASCAL7.labels[part]: text for part, text in part_phrases(person(values)).items()}


def test_two_means_yes() -> None:
    assert traits(person(PLAIN)) == ["male", "adult"]
    assert traits(person(WOMAN)) == ["female", "teenage", "backpack", "handbag"]


def test_short_clothes_leave_lower_limbs_bare() -> None:
    assert phrases(WOMAN | SUMMER) == {
        "Head": "long hair and a hat",
        "Torso": "red shirt",
        "Upper Arms": "red short sleeves",
        "Lower Arms": "bare lower arms",
        "Upper Legs": "blue shorts",
        "Lower Legs": "bare lower legs",
    }


def test_long_clothes_cover_lower_limbs_and_a_missing_colour_is_left_out() -> None:
    assert phrases(PLAIN | {"downblack": 2}) == {
        "Head": "short hair",
        "Torso": "shirt",
        "Upper Arms": "long sleeves",
        "Lower Arms": "long sleeves",
        "Upper Legs": "black long dress",
        "Lower Legs": "black long dress",
    }


@pytest.mark.parametrize(
    ("clothes", "down", "word"),
    [(1, 1, "long dress"), (1, 2, "dress"), (2, 1, "pants"), (2, 2, "shorts")],
)
def test_lower_garments(clothes: int, down: int, word: str) -> None:
    assert person(PLAIN | {"clothes": clothes, "down": down}).lower == word


def test_caption_names_traits_and_every_captioned_part() -> None:
    assert caption(person(WOMAN | SUMMER)) == (
        "a photo of a female, teenage, backpack, handbag, long hair and a hat, red shirt,"
        " red short sleeves, blue shorts person"
    )


def test_vocabulary_knows_captions_phrases_and_prompts() -> None:
    people = {1: person(WOMAN | SUMMER), 2: person(PLAIN)}
    tokenizer = Tokenizer(used_token_ids(vocabulary_texts(people)))
    texts = [caption(who) for who in people.values()]
    texts += [text for who in people.values() for text in part_phrases(who).values()]
    texts += [f"a photo of a X X X X person {word}" for word in PASCAL7.words]
    assert [text for text in texts if UNKNOWN_ROW in tokenizer.encode(text)] == []


def test_training_identities_are_read_whatever_the_order_of_the_fields(tmp_path: Path) -> None:
    for number, names in enumerate((list(PLAIN), list(reversed(PLAIN)))):
        rows = [{name: row[name] for name in names} for row in (WOMAN, PLAIN | SUMMER)]
        write_attributes(tmp_path / f"{number}.mat", rows, (2, 7))
        people = read_people(tmp_path / f"{number}.mat")
        assert people == {2: person(WOMAN), 7: person(PLAIN | SUMMER)}


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.mat").write_text("none")
    scipy.io.savemat(tmp_path / "other.mat", {"market_attribute": {"train": {"gender": [1]}}})
    incomplete = {name: value for name, value in PLAIN.items() if name != "upred"}
    write_attributes(tmp_path / "incomplete.mat", [incomplete, incomplete], (2, 7))
    for name in ("text", "other", "incomplete"):
        with pytest.raises(PivlError, match="does not have the attributes of training identities"):
            read_people(tmp_path / f"{name}.mat")


def test_command_shows_captions(root: Path) -> None:
    result = CliRunner().invoke(main, ["--root", str(root), "--count", "2"])
    assert result.exit_code == 0, result.output
    assert f"Captions of {len(PIDS)} training identities" in result.output
    assert result.output.count("a photo of a male, adult") == 2

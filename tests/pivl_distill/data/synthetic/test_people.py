"""People: families share large garments, and phrases describe visible items only."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pytest

from pivl_distill.data.synthetic import labels
from pivl_distill.data.synthetic.people import (
    BARE_LEGGED,
    COLOURS,
    ONE_PIECE,
    Person,
    attributes,
    caption,
    person,
    phrases,
)

OWN = {
    "hair", "hair_length", "hat", "brim", "sunglasses", "scarf", "gloves", "socks", "shoes",
    "bag", "bag_colour",
}  # fmt: skip


@pytest.fixture
def walker() -> Person:
    """A person with plain, known clothes and no accessories."""
    return replace(
        person(0, 0, 1), skin="pale", lower="pants", lower_colour="blue", upper="green",
        pattern="plain", long_sleeves=False, coat=None, hair="black", hair_length="short", hat=None,
        sunglasses=False, scarf=None, gloves=None, socks="red", shoes="white", bag=None,
    )  # fmt: skip


def test_same_seed_and_index_give_the_same_person() -> None:
    assert person(3, 5, 1) == person(3, 5, 1)
    assert person(3, 5, 1) != person(3, 6, 1)
    assert person(3, 5, 1) != person(4, 5, 1)


def test_family_shares_all_but_the_small_parts() -> None:
    first, *others = (asdict(person(1, index, 4)) for index in range(8, 12))
    for other in others:
        differing = {name for name in first if first[name] != other[name]}
        assert differing
        assert differing <= OWN


def test_families_differ_in_large_parts() -> None:
    large = [
        {k: v for k, v in asdict(person(1, index, 4)).items() if k not in OWN} for index in (3, 4)
    ]
    assert large[0] != large[1]


def test_individuals_do_not_depend_on_the_family_size() -> None:
    alone, together = asdict(person(2, 7, 1)), asdict(person(2, 7, 4))
    assert {name: alone[name] for name in OWN} == {name: together[name] for name in OWN}


def test_population_uses_every_colour_and_never_a_shirt_below_a_dress() -> None:
    people = [person(0, index, 1) for index in range(400)]
    assert {p.shoes for p in people} == set(COLOURS)
    assert len(COLOURS) == 14
    for p in people:
        assert (p.upper is None) == (p.lower in ONE_PIECE)
        assert p.upper is not None or (p.coat is None and p.pattern == "plain")
        assert p.accent != p.upper


def test_phrases(walker: Person) -> None:
    assert phrases(walker) == {
        labels.HAIR: "short black hair",
        labels.UPPER: "green shirt",
        labels.PANTS: "blue pants",
        labels.FACE: "pale face",
        labels.LEFT_ARM: "pale left arm",
        labels.RIGHT_ARM: "pale right arm",
        labels.LEFT_SHOE: "white shoes",
        labels.RIGHT_SHOE: "white shoes",
    }


def test_phrases_of_extras(walker: Person) -> None:
    dressed = replace(
        walker, lower="skirt", pattern="hstripe", coat="beige", hat="red", hair_length="bald",
        sunglasses=True, scarf="pink", gloves="cyan",
    )  # fmt: skip
    assert phrases(dressed) == {
        labels.HAT: "red hat",
        labels.GLOVE: "cyan gloves",
        labels.SUNGLASSES: "sunglasses",
        labels.UPPER: "green striped shirt",
        labels.COAT: "beige coat",
        labels.SOCKS: "red socks",
        labels.SCARF: "pink scarf",
        labels.SKIRT: "blue skirt",
        labels.FACE: "pale face",
        labels.LEFT_LEG: "pale left leg",
        labels.RIGHT_LEG: "pale right leg",
        labels.LEFT_SHOE: "white shoes",
        labels.RIGHT_SHOE: "white shoes",
    }


@pytest.mark.parametrize(
    ("lower", "label"),
    [
        ("pants", labels.PANTS), ("shorts", labels.PANTS), ("skirt", labels.SKIRT),
        ("dress", labels.DRESS), ("jumpsuit", labels.JUMPSUIT),
    ],
)  # fmt: skip
def test_lower_garment_and_its_label(walker: Person, lower: str, label: int) -> None:
    by_label = phrases(replace(walker, lower=lower))
    assert by_label[label] == f"blue {lower}"
    assert (labels.SOCKS in by_label) == (labels.LEFT_LEG in by_label) == (lower in BARE_LEGGED)


def test_caption_lists_two_to_six_visible_garments_once(walker: Person) -> None:
    rng = np.random.default_rng(0)
    dressed = replace(walker, hat="red", scarf="pink", gloves="cyan", sunglasses=True, coat="beige")
    visible = set(range(20)) - {labels.HAT}
    allowed = {
        phrase for label, phrase in phrases(dressed).items() if label not in labels.SKIN_LABELS
    } - {"red hat"}
    counts, mentioned = set(), set()
    for _ in range(200):
        head, _, tail = caption(dressed, visible, rng).partition(" wearing ")
        named = tail.split(", ")
        assert head == "a photo of a person"
        assert set(named) <= allowed
        assert len(set(named)) == len(named)
        counts.add(len(named))
        mentioned |= set(named)
    assert counts == {2, 3, 4, 5, 6}
    assert mentioned == allowed


def test_caption_with_few_visible_garments(walker: Person) -> None:
    rng = np.random.default_rng(0)
    assert caption(walker, [labels.FACE], rng) == "a photo of a person"
    shoes = [labels.LEFT_SHOE, labels.RIGHT_SHOE]
    assert caption(walker, shoes, rng) == "a photo of a person wearing white shoes"


def test_attributes_are_none_if_not_applicable(walker: Person) -> None:
    named = attributes(walker)
    assert json.loads(json.dumps(named)) == named
    assert (named["pants"], named["upper"], named["shoes"]) == ("blue", "green", "white")
    assert named["hat"] is named["coat"] is named["scarf"] is named["gloves"] is None
    assert named["socks"] is None  # below long pants
    assert attributes(replace(walker, lower="shorts"))["socks"] == "red"
    assert attributes(replace(walker, lower="shorts"))["pants"] is None
    assert attributes(replace(walker, pattern="dots"))["upper"] is None
    assert attributes(replace(walker, hair_length="bald"))["hair"] is None

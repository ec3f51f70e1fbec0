"""Synthetic people: their appearance, and words that describe it.

A person is a set of named attributes. People can form families that share body, top and bottom and
differ only in small parts: large garments then identify the family, and only hats, shoes and other
small parts identify the person, which tests part prompts (§3.3 of π-VL). Groups of look-alikes
within a varied crowd follow ClonedPerson (Wang et al., CVPR 2022).

Left out on purpose: age and gender, which no label of the vocabulary shows.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from pivl_distill.data.synthetic import labels
from pivl_distill.data.vocabulary import LIP20

Colour = tuple[int, int, int]
"""RGB, 0–255."""

PALETTE: dict[str, Colour] = {
    "black": (30, 30, 32), "white": (232, 232, 228), "gray": (128, 128, 130),
    "red": (190, 35, 40), "blue": (40, 75, 180), "navy": (28, 36, 85), "green": (45, 120, 60),
    "yellow": (225, 195, 50), "orange": (225, 120, 35), "pink": (232, 140, 172),
    "purple": (112, 55, 145), "brown": (105, 70, 45), "beige": (205, 185, 150),
    "cyan": (60, 178, 192),
}  # fmt: skip
COLOURS: tuple[str, ...] = tuple(PALETTE)

HAIR_COLOURS: dict[str, Colour] = {
    "black": (28, 23, 22), "brown": (85, 55, 35), "blond": (205, 168, 105),
    "gray": (150, 150, 150), "red": (145, 62, 32),
}  # fmt: skip
SKINS: dict[str, Colour] = {
    "pale": (240, 205, 182), "light": (216, 172, 138), "tan": (176, 128, 94),
    "brown": (126, 86, 62), "dark": (84, 58, 44),
}  # fmt: skip
PATTERNS: dict[str, str] = {
    "plain": "", "hstripe": "striped", "vstripe": "striped", "plaid": "plaid",
    "dots": "dotted", "logo": "printed",
}  # fmt: skip
"""Shirt pattern → its word in captions."""

BARE_LEGGED = frozenset(("shorts", "skirt", "dress"))
ONE_PIECE = frozenset(("dress", "jumpsuit"))
_LOWER_LABELS = {
    "pants": labels.PANTS, "shorts": labels.PANTS, "skirt": labels.SKIRT,
    "dress": labels.DRESS, "jumpsuit": labels.JUMPSUIT,
}  # fmt: skip
_LOWERS, _LOWER_ODDS = tuple(_LOWER_LABELS), (0.40, 0.17, 0.14, 0.15, 0.14)


@dataclass(frozen=True)
class Person:
    """Attributes of a person that all cameras share.

    Body factors are relative to an average body. Colours are names of `PALETTE`; None means that
    the person does not wear the item. A dress or jumpsuit excludes shirt and coat.
    """

    girth: float
    shoulders: float
    hips: float
    legs: float
    head: float
    skin: str
    lower: str
    lower_colour: str
    upper: str | None
    pattern: str
    accent: str
    long_sleeves: bool
    coat: str | None

    hair: str
    hair_length: str
    hat: str | None
    brim: bool
    sunglasses: bool
    scarf: str | None
    gloves: str | None
    socks: str | None
    shoes: str
    bag: str | None
    bag_colour: str

    @property
    def covered_arms(self) -> bool:
        return self.long_sleeves or self.coat is not None

    @property
    def shows_socks(self) -> bool:
        return self.socks is not None and self.lower in BARE_LEGGED


def person(seed: int, index: int, family_size: int) -> Person:
    """Return person `index` of the population `seed`.

    With `family_size` > 1, that many consecutive indexes share body, top and bottom and differ only
    in shoes, hat, hair, socks, scarf, gloves, sunglasses and bag.
    """
    family = np.random.default_rng((seed, index // family_size, 11))
    own = np.random.default_rng((seed, index, 12))

    def colour(rng: np.random.Generator, besides: str | None = None) -> str:
        return str(rng.choice([name for name in COLOURS if name != besides]))

    def maybe(rng: np.random.Generator, odds: float) -> str | None:
        name = colour(rng)
        return name if rng.random() < odds else None

    girth, shoulders, hips, legs, head = family.normal(1, (0.08, 0.06, 0.07, 0.04, 0.05)).tolist()
    lower = str(family.choice(_LOWERS, p=_LOWER_ODDS))
    two_piece = lower not in ONE_PIECE
    upper, coat = colour(family), maybe(family, 0.3)
    return Person(
        girth=girth, shoulders=shoulders, hips=hips, legs=legs, head=head,
        skin=str(family.choice(tuple(SKINS))),
        lower=lower,
        lower_colour=colour(family),
        upper=upper if two_piece else None,
        pattern=str(family.choice(tuple(PATTERNS))) if two_piece else "plain",
        accent=colour(family, besides=upper),
        long_sleeves=bool(family.random() < 0.5),
        coat=coat if two_piece else None,
        hair=str(own.choice(tuple(HAIR_COLOURS))),
        hair_length=str(own.choice(("bald", "short", "long"), p=(0.15, 0.5, 0.35))),
        hat=maybe(own, 0.35),
        brim=bool(own.random() < 0.6),
        sunglasses=bool(own.random() < 0.2),
        scarf=maybe(own, 0.2),
        gloves=maybe(own, 0.15),
        socks=maybe(own, 0.6),
        shoes=colour(own),
        bag=str(own.choice(("backpack", "shoulder", "hand"))) if own.random() < 0.5 else None,
        bag_colour=colour(own),
    )  # fmt: skip


def phrases(person: Person) -> dict[int, str]:
    """Return LIP-20 label id → phrase, for every label that this person can show."""
    by_label = {
        _LOWER_LABELS[person.lower]: f"{person.lower_colour} {person.lower}",
        labels.FACE: f"{person.skin} face",
        labels.LEFT_SHOE: f"{person.shoes} shoes",
        labels.RIGHT_SHOE: f"{person.shoes} shoes",
    }
    if person.hair_length != "bald":
        by_label[labels.HAIR] = f"{person.hair_length} {person.hair} hair"
    if person.sunglasses:
        by_label[labels.SUNGLASSES] = "sunglasses"
    if person.upper:
        words = f"{person.upper} {PATTERNS[person.pattern]} shirt"
        by_label[labels.UPPER] = " ".join(words.split())
    if person.shows_socks:
        by_label[labels.SOCKS] = f"{person.socks} socks"
    worn = {
        labels.HAT: (person.hat, "hat"),
        labels.COAT: (person.coat, "coat"),
        labels.SCARF: (person.scarf, "scarf"),
        labels.GLOVE: (person.gloves, "gloves"),
    }
    by_label |= {label: f"{colour} {noun}" for label, (colour, noun) in worn.items() if colour}
    bare = []
    if not (person.covered_arms and person.gloves):
        bare += [labels.LEFT_ARM, labels.RIGHT_ARM]
    if person.lower in BARE_LEGGED:
        bare += [labels.LEFT_LEG, labels.RIGHT_LEG]
    by_label |= {label: f"{person.skin} {LIP20.words[label]}" for label in bare}
    return dict(sorted(by_label.items()))


def garments(person: Person, visible: Collection[int]) -> list[str]:
    """Return the phrases of the label ids in `visible`, each once, without skin."""
    by_label = phrases(person)
    named = sorted(by_label.keys() & set(visible) - labels.SKIN_LABELS)
    return list(dict.fromkeys(by_label[label] for label in named))


def caption(person: Person, visible: Collection[int], rng: np.random.Generator) -> str:
    """Return a sentence about 2 to 6 of the visible items (or all, if fewer), shuffled."""
    shuffled = rng.permutation(garments(person, visible))
    return _sentence([str(phrase) for phrase in shuffled[: rng.integers(2, 7)]])


def full_caption(person: Person, visible: Collection[int]) -> str:
    """Return a sentence about every visible item, in the order of the labels."""
    return _sentence(garments(person, visible))


def _sentence(items: list[str]) -> str:
    return f"a photo of a person wearing {', '.join(items)}" if items else "a photo of a person"


def attributes(person: Person) -> dict[str, str | None]:
    """Return searchable attributes: a colour or word each, None if not applicable."""
    return {
        "hat": person.hat,
        "hair": person.hair if person.hair_length != "bald" else None,
        "hair_length": person.hair_length,
        "skin": person.skin,
        "upper": person.upper if person.pattern == "plain" else None,
        "coat": person.coat,
        "pants": person.lower_colour if person.lower == "pants" else None,
        "lower_type": person.lower,
        "lower_colour": person.lower_colour,
        "socks": person.socks if person.shows_socks else None,
        "shoes": person.shoes,
        "scarf": person.scarf,
        "gloves": person.gloves,
        "bag": person.bag,
    }

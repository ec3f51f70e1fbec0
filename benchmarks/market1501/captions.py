"""Captions and part phrases of training identities, from their annotated attributes: `captions`.

The file of attributes is MATLAB's. It has one column per attribute; its fields are read by name,
because their order differs between training and test. Only training identities are read.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import click
import scipy.io
from scipy.io.matlab import MatReadError

from benchmarks.market1501.files import Files, root_option
from pivl_distill.console import table
from pivl_distill.data.vocabulary import PASCAL7
from pivl_distill.errors import PivlError
from teachers.pretraining_loss import TEMPLATES

UPPER_COLOURS = ("black", "white", "red", "purple", "yellow", "gray", "blue", "green")
LOWER_COLOURS = (
    "black", "white", "pink", "purple", "yellow", "gray", "blue", "green", "brown",
)  # fmt: skip
AGES = ("young", "teenage", "adult", "old")
BAGS = {"backpack": "backpack", "bag": "shoulder bag", "handbag": "handbag"}
"""Attribute → its words."""

YES = 2
"""Value of a two-valued attribute that is present; 1 means absent."""

UNCAPTIONED = frozenset(PASCAL7.index(label) for label in ("Lower Arms", "Lower Legs"))
"""Parts whose phrases repeat those of the upper limbs, or say that they are bare."""


@dataclass(frozen=True)
class Person:
    """Attributes of an identity; a colour is None where the annotation names none."""

    female: bool
    age: str
    long_hair: bool
    hat: bool
    upper_colour: str | None
    long_sleeves: bool
    lower_colour: str | None
    long_lower: bool
    dress: bool
    bags: tuple[str, ...]

    @property
    def lower(self) -> str:
        """Words for the garment of the lower body, without its colour."""
        if self.dress:
            return "long dress" if self.long_lower else "dress"
        return "pants" if self.long_lower else "shorts"


def read_people(path: Path) -> dict[int, Person]:
    """Return training identity → attributes; raises PivlError if the file is not what it was."""
    try:
        columns = scipy.io.loadmat(path, simplify_cells=True)["market_attribute"]["train"]
        pids = [int(pid) for pid in columns.pop("image_index")]
        rows = [
            {name: int(values[row]) for name, values in columns.items()} for row in range(len(pids))
        ]
        return {pid: person(row) for pid, row in zip(pids, rows, strict=True)}
    except (MatReadError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise PivlError(
            f"{path} does not have the attributes of training identities"
            f" ({type(error).__name__}: {error}). Fetch market_attribute.mat again."
        ) from error


def person(values: dict[str, int]) -> Person:
    """Return the person with the attribute values of one column of the file."""

    def colour(prefix: str, names: tuple[str, ...]) -> str | None:
        return next((name for name in names if values[prefix + name] == YES), None)

    return Person(
        female=values["gender"] == YES,
        age=AGES[values["age"] - 1],
        long_hair=values["hair"] == YES,
        hat=values["hat"] == YES,
        upper_colour=colour("up", UPPER_COLOURS),
        long_sleeves=values["up"] != YES,
        lower_colour=colour("down", LOWER_COLOURS),
        long_lower=values["down"] != YES,
        dress=values["clothes"] != YES,
        bags=tuple(words for name, words in BAGS.items() if values[name] == YES),
    )


def traits(person: Person) -> list[str]:
    """Return phrases about the whole person: sex, age and bags."""
    return ["female" if person.female else "male", person.age, *person.bags]


def part_phrases(person: Person) -> dict[int, str]:
    """Return class id of `PASCAL7` → phrase of that part."""
    hair = f"{'long' if person.long_hair else 'short'} hair"
    sleeves = _coloured(
        person.upper_colour, f"{'long' if person.long_sleeves else 'short'} sleeves"
    )
    lower = _coloured(person.lower_colour, person.lower)
    by_label = {
        "Head": f"{hair} and a hat" if person.hat else hair,
        "Torso": _coloured(person.upper_colour, "shirt"),
        "Upper Arms": sleeves,
        "Lower Arms": sleeves if person.long_sleeves else "bare lower arms",
        "Upper Legs": lower,
        "Lower Legs": lower if person.long_lower else "bare lower legs",
    }
    return {PASCAL7.index(label): phrase for label, phrase in by_label.items()}


def caption(person: Person) -> str:
    """Return one sentence with every trait and every phrase that captions use."""
    worn = [text for part, text in part_phrases(person).items() if part not in UNCAPTIONED]
    return TEMPLATES[0].format(context=", ".join([*traits(person), *worn]), part="").strip()


def vocabulary_texts(people: Mapping[int, Person]) -> list[str]:
    """Return texts whose tokens a CLIP of these people needs, the words of prompts included."""
    phrases = {
        text for who in people.values() for text in (*part_phrases(who).values(), *traits(who))
    }
    words = {*PASCAL7.words, *PASCAL7.labels, *UPPER_COLOURS, *LOWER_COLOURS}
    return ["a photo of a person wearing and the of X, .", *sorted(phrases | words)]


def _coloured(colour: str | None, garment: str) -> str:
    return f"{colour} {garment}" if colour else garment


@click.command("captions")
@root_option
@click.option("--count", default=5, show_default=True, help="Identities to show.")
@click.option("--seed", default=0, show_default=True, help="Which identities are drawn.")
def main(root: Path, count: int, seed: int) -> None:
    """Show captions and part phrases of a few training identities."""
    people = read_people(Files(root).attributes)
    shown = random.Random(seed).sample(sorted(people), min(count, len(people)))
    rows = [(f"{pid:04d}", caption(people[pid])) for pid in shown]
    table(f"Captions of {len(people)} training identities", ("identity", "caption"), rows)
    rows = [
        (f"{pid:04d}", *(part_phrases(people[pid])[part] for part in range(1, len(PASCAL7))))
        for pid in shown
    ]
    table("Part phrases", ("identity", *PASCAL7.words[1:]), rows)

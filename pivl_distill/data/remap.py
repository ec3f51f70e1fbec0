"""Mappings between part vocabularies: a table of 256 values that maps or drops every class.

A class without an equivalent becomes unknown, not background, because it is part of a person.
Classes with the same published name are mapped to each other without being listed. Prompts work
with any vocabulary, so remapping serves to compare parsers or to combine their maps; it loses
detail.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from pivl_distill.data.vocabulary import IGNORE, Vocabulary, get_vocabulary
from pivl_distill.errors import PivlError


@dataclass(frozen=True)
class Remap:
    """Mapping of the labels of `source` to those of `target`; `unknown` labels become IGNORE."""

    source: str
    target: str
    renamed: dict[str, str] = field(default_factory=dict)
    unknown: tuple[str, ...] = ()

    @property
    def table(self) -> np.ndarray:
        """uint8 [256]: new value of each pixel value; IGNORE stays IGNORE."""
        source, target = get_vocabulary(self.source), get_vocabulary(self.target)
        table = np.full(256, IGNORE, np.uint8)
        for value, label in enumerate(source.labels):
            if label not in self.unknown:
                table[value] = target.index(self.renamed.get(label, label))
        return table


def _groups(**groups: str) -> dict[str, str]:
    """Map each word of `Head="Hat Hair"` to Head."""
    return {label: target for target, labels in groups.items() for label in labels.split()}


_LIP_GROUPS = _groups(
    Head="Hat Hair Sunglasses Scarf Face",
    Upper="Glove Upper-clothes Dress Coat Jumpsuits",
    Arms="Left-arm Right-arm",
    Lower="Socks Pants Skirt Left-leg Right-leg",
    Shoes="Left-shoe Right-shoe",
)

_REMAPS = (
    Remap("atr18", "lip20", unknown=("Belt", "Bag")),
    Remap("cihp20", "lip20", unknown=("Torso-skin",)),
    Remap(
        "fashn18",
        "lip20",
        {
            "background": "Background",
            "face": "Face",
            "hair": "Hair",
            "top": "Upper-clothes",
            "dress": "Dress",
            "skirt": "Skirt",
            "pants": "Pants",
            "hat": "Hat",
            "scarf": "Scarf",
            "glasses": "Sunglasses",
        },
        # LIP distinguishes left and right, these do not.
        unknown=("belt", "bag", "arms", "hands", "legs", "feet", "torso", "jewelry"),
    ),
    Remap(
        "sapiens28",
        "lip20",
        {
            "Upper_Clothing": "Upper-clothes",
            "Lower_Clothing": "Pants",
            "Left_Sock": "Socks",
            "Right_Sock": "Socks",
            **_groups(Face="Face_Neck Lower_Lip Upper_Lip Lower_Teeth Upper_Teeth Tongue"),
            **{
                f"{side}_{limb}": f"{side}-{part}"
                for side in ("Left", "Right")
                for part, limbs in {
                    "arm": ("Hand", "Lower_Arm", "Upper_Arm"),
                    "leg": ("Foot", "Lower_Leg", "Upper_Leg"),
                    "shoe": ("Shoe",),
                }.items()
                for limb in limbs
            },
        },
        unknown=("Apparel", "Torso"),
    ),
    Remap("lip20", "coarse6", _LIP_GROUPS),
    Remap("atr18", "coarse6", _LIP_GROUPS, unknown=("Belt", "Bag")),
    Remap("cihp20", "coarse6", {**_LIP_GROUPS, "Torso-skin": "Upper"}),
    Remap(
        "pascal7",
        "coarse6",
        {
            "Torso": "Upper",
            "Upper Arms": "Arms",
            "Lower Arms": "Arms",
            "Upper Legs": "Lower",
            "Lower Legs": "Lower",
        },
    ),
    Remap(
        "fashn18",
        "coarse6",
        _groups(
            Background="background",
            Head="face hair hat scarf glasses",
            Upper="top dress torso",
            Arms="arms hands",
            Lower="skirt pants legs",
            Shoes="feet",
        ),
        unknown=("belt", "bag", "jewelry"),
    ),
    Remap(
        "sapiens28",
        "coarse6",
        _groups(
            Head="Face_Neck Hair Lower_Lip Upper_Lip Lower_Teeth Upper_Teeth Tongue",
            Upper="Torso Upper_Clothing",
            Arms="Left_Hand Left_Lower_Arm Left_Upper_Arm Right_Hand Right_Lower_Arm"
            " Right_Upper_Arm",
            Lower="Left_Lower_Leg Left_Sock Left_Upper_Leg Lower_Clothing Right_Lower_Leg"
            " Right_Sock Right_Upper_Leg",
            Shoes="Left_Foot Left_Shoe Right_Foot Right_Shoe",
        ),
        unknown=("Apparel",),
    ),
)

REMAPS = {(remap.source, remap.target): remap for remap in _REMAPS}


def remap_table(source: Vocabulary, target: Vocabulary) -> np.ndarray:
    """Return uint8 [256] that maps `source` to `target`; raises PivlError if none is defined."""
    if source == target:
        return np.arange(256, dtype=np.uint8)
    if (source.name, target.name) not in REMAPS:
        known = [name for start, name in REMAPS if start == source.name]
        raise PivlError(
            f"No mapping from {source.name} to {target.name} is defined. {source.name} can be"
            f" mapped to {', '.join(known) or 'no other vocabulary'}."
        )
    return REMAPS[source.name, target.name].table

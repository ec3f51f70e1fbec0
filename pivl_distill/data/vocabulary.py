"""Part vocabularies: the classes of a human parser and the words that prompts use for them.

A part map contains class ids, which mean nothing without the vocabulary (LIP and CIHP share all
ids except one). Ids are indices into `labels`. Left and right are the person's own, so mirroring an
image swaps each pair in `mirror_pairs`. `remap` converts one vocabulary to another.

Sources: the label lists of LIP, ATR and PASCAL-Person-Part as SCHP publishes its models (Li et al.,
TPAMI 2020; LIP is named in §3.3 of π-VL), of CIHP (Gong et al., ECCV 2018), of
fashn-human-parser 0.1.1 and of Sapiens (Khirodkar et al., ECCV 2024). coarse6 is ours:
the parts that all of them distinguish.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from pivl_distill.errors import unknown_name

IGNORE = 255
"""Pixel value without a known class: padding, erased areas, labels without an equivalent."""


@dataclass(frozen=True)
class Vocabulary:
    """The classes of one parser: published `labels`, and `words` for prompts."""

    name: str
    labels: tuple[str, ...]
    words: tuple[str, ...]
    mirror_pairs: tuple[tuple[int, int], ...]
    background: int = 0

    def __len__(self) -> int:
        return len(self.labels)

    def index(self, label: str) -> int:
        """Id of a published label, e.g. `LIP20.index("Hat") == 1`."""
        if label not in self.labels:
            raise unknown_name(f"{self.name} label", label, self.labels)
        return self.labels.index(label)

    def prompt_words(self, part_words: Literal["plain", "raw"]) -> tuple[str, ...]:
        """Return the text of each class in prompts: plain words, or the published labels."""
        return self.words if part_words == "plain" else self.labels

    @cached_property
    def mirror(self) -> np.ndarray:
        """uint8 [256]: class of each pixel value after mirroring the image."""
        table = np.arange(256, dtype=np.uint8)
        for left, right in self.mirror_pairs:
            table[left], table[right] = right, left
        return table

    @property
    def palette(self) -> np.ndarray:
        """uint8 [P, 3]: RGB colours of PASCAL VOC, which parsers use to visualise maps."""
        return voc_palette(len(self))


def voc_palette(count: int) -> np.ndarray:
    """Return the first colours of PASCAL VOC's palette, uint8 [count, 3]; 255 is "void".

    The bits of a label alternate between red, green and blue; the lowest bits have the highest
    intensity.
    """
    label = np.arange(count)
    channels = [
        sum(((label >> (3 * bit + channel)) & 1) << (7 - bit) for bit in range(8))
        for channel in range(3)
    ]
    return np.stack(channels, axis=1).astype(np.uint8)


LIP20 = Vocabulary(
    name="lip20",
    labels=(
        "Background", "Hat", "Hair", "Glove", "Sunglasses", "Upper-clothes", "Dress", "Coat",
        "Socks", "Pants", "Jumpsuits", "Scarf", "Skirt", "Face", "Left-arm", "Right-arm",
        "Left-leg", "Right-leg", "Left-shoe", "Right-shoe",
    ),
    words=(
        "background", "hat", "hair", "gloves", "sunglasses", "upper clothes", "dress", "coat",
        "socks", "pants", "jumpsuit", "scarf", "skirt", "face", "left arm", "right arm",
        "left leg", "right leg", "left shoe", "right shoe",
    ),
    mirror_pairs=((14, 15), (16, 17), (18, 19)),
)  # fmt: skip

ATR18 = Vocabulary(
    name="atr18",
    labels=(
        "Background", "Hat", "Hair", "Sunglasses", "Upper-clothes", "Skirt", "Pants", "Dress",
        "Belt", "Left-shoe", "Right-shoe", "Face", "Left-leg", "Right-leg", "Left-arm",
        "Right-arm", "Bag", "Scarf",
    ),
    words=(
        "background", "hat", "hair", "sunglasses", "upper clothes", "skirt", "pants", "dress",
        "belt", "left shoe", "right shoe", "face", "left leg", "right leg", "left arm",
        "right arm", "bag", "scarf",
    ),
    mirror_pairs=((9, 10), (12, 13), (14, 15)),
)  # fmt: skip

CIHP20 = replace(
    LIP20,
    name="cihp20",
    labels=(*LIP20.labels[:10], "Torso-skin", *LIP20.labels[11:]),
    words=(*LIP20.words[:10], "bare torso", *LIP20.words[11:]),
)

PASCAL7 = Vocabulary(
    name="pascal7",
    labels=(
        "Background", "Head", "Torso", "Upper Arms", "Lower Arms", "Upper Legs", "Lower Legs",
    ),
    words=(
        "background", "head", "torso", "upper arms", "lower arms", "upper legs", "lower legs",
    ),
    mirror_pairs=(),
)  # fmt: skip

FASHN18 = Vocabulary(
    name="fashn18",
    labels=(
        "background", "face", "hair", "top", "dress", "skirt", "pants", "belt", "bag", "hat",
        "scarf", "glasses", "arms", "hands", "legs", "feet", "torso", "jewelry",
    ),
    words=(
        "background", "face", "hair", "top", "dress", "skirt", "pants", "belt", "bag", "hat",
        "scarf", "glasses", "arms", "hands", "legs", "feet", "bare torso", "jewelry",
    ),
    mirror_pairs=(),
)  # fmt: skip

SAPIENS28 = Vocabulary(
    name="sapiens28",
    labels=(
        "Background", "Apparel", "Face_Neck", "Hair", "Left_Foot", "Left_Hand", "Left_Lower_Arm",
        "Left_Lower_Leg", "Left_Shoe", "Left_Sock", "Left_Upper_Arm", "Left_Upper_Leg",
        "Lower_Clothing", "Right_Foot", "Right_Hand", "Right_Lower_Arm", "Right_Lower_Leg",
        "Right_Shoe", "Right_Sock", "Right_Upper_Arm", "Right_Upper_Leg", "Torso",
        "Upper_Clothing", "Lower_Lip", "Upper_Lip", "Lower_Teeth", "Upper_Teeth", "Tongue",
    ),
    words=(
        "background", "accessories", "face and neck", "hair", "left foot", "left hand",
        "left lower arm", "left lower leg", "left shoe", "left sock", "left upper arm",
        "left upper leg", "lower clothes", "right foot", "right hand", "right lower arm",
        "right lower leg", "right shoe", "right sock", "right upper arm", "right upper leg",
        "bare torso", "upper clothes", "lower lip", "upper lip", "lower teeth", "upper teeth",
        "tongue",
    ),
    mirror_pairs=tuple((left, left + 9) for left in range(4, 12)),
)  # fmt: skip

COARSE6 = Vocabulary(
    name="coarse6",
    labels=("Background", "Head", "Upper", "Arms", "Lower", "Shoes"),
    words=("background", "head", "upper body", "arms", "lower body", "shoes"),
    mirror_pairs=(),
)

VOCABULARIES = {
    vocabulary.name: vocabulary
    for vocabulary in (LIP20, ATR18, CIHP20, PASCAL7, FASHN18, SAPIENS28, COARSE6)
}


def get_vocabulary(name: str, source: Path | None = None) -> Vocabulary:
    """Return the vocabulary called `name`; raises PivlError that lists the known ones.

    `source` is the file that names it, for the message.
    """
    if name not in VOCABULARIES:
        kind = "part vocabulary" if source is None else f"part vocabulary in {source}:"
        raise unknown_name(kind, name, VOCABULARIES)
    return VOCABULARIES[name]

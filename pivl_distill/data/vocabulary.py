"""Part vocabularies: the classes of a human parser and the words that prompts use for them.

A label map holds class ids, so it says nothing without its vocabulary (LIP and CIHP share all their
ids but one). Ids are positions in `labels`. Left and right are the person's own, hence a mirrored
image swaps each pair in `mirror_pairs`.

Sources: Look-into-Person label list as used by SCHP (Li et al., TPAMI 2020), named in §3.3 of π-VL.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pivl_distill.errors import unknown_name

IGNORE = 255
"""Pixel value without a known class: padding, erased areas, labels without an equivalent."""


@dataclass(frozen=True)
class Vocabulary:
    """The classes of one parser; `labels` as published, `words` as a prompt says them."""

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

    @cached_property
    def mirror(self) -> np.ndarray:
        """uint8 [256]: the class each pixel value becomes when the image is mirrored."""
        table = np.arange(256, dtype=np.uint8)
        for left, right in self.mirror_pairs:
            table[left], table[right] = right, left
        return table


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

VOCABULARIES = {vocabulary.name: vocabulary for vocabulary in (LIP20,)}


def get_vocabulary(name: str) -> Vocabulary:
    """The vocabulary called `name`; raises PivlError naming the known ones."""
    if name not in VOCABULARIES:
        raise unknown_name("part vocabulary", name, VOCABULARIES)
    return VOCABULARIES[name]

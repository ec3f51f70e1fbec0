"""What all parsers share: their input, their interface and the metadata that identify them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from pivl_distill.data.part_maps import PartMap
from pivl_distill.data.vocabulary import Vocabulary
from pivl_distill.parsing.settings import ParserSettings


@dataclass(frozen=True)
class ParserInput:
    """One image to parse."""

    name: Path
    """Path relative to the data set's root."""
    pixels: np.ndarray
    """uint8 RGB [H, W, 3], in the image's own size."""
    has_unique_stem: bool = True
    """Whether no other image has the same file name without suffix, so that a flat folder works."""


class Parser(Protocol):
    """Interface of a parser, for `write_maps`."""

    vocabulary: Vocabulary
    """Meaning of the class ids in its maps."""
    batch_size: int
    """Number of crops that `parse` takes at a time."""
    metadata: dict[str, Any]
    """Everything that determines its maps, as JSON: equal metadata imply equal maps."""

    def parse(self, crops: Sequence[ParserInput]) -> list[PartMap | None]:
        """Return a map of each crop, in the crop's own size [H, W], or None if it has none."""
        ...


def parser_metadata(name: str, settings: ParserSettings) -> dict[str, Any]:
    """Return the settings that determine a parser's maps, without paths and speed."""
    excluded = {"source", "batch_size", "device"}
    return {"name": name, **settings.model_dump(mode="json", exclude=excluded)}

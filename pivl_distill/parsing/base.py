"""A parser: crops in, maps of class ids out, and the metadata that decide what is in them."""

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
    """One image: its path below the data set's root, and its pixels uint8 RGB [H, W, 3]."""

    name: Path
    pixels: np.ndarray
    has_unique_stem: bool = True
    """Whether no other image of the data set has the same file name."""


class Parser(Protocol):
    """What `write_maps` runs."""

    vocabulary: Vocabulary
    """What the ids mean that it gives."""
    batch_size: int
    metadata: dict[str, Any]
    """All that decides its maps, as JSON values; two parsers of equal metadata give equal maps."""

    def parse(self, crops: Sequence[ParserInput]) -> list[PartMap | None]:
        """The map of each crop, of its own size; None where there is no map."""
        ...


def parser_metadata(name: str, settings: ParserSettings) -> dict[str, Any]:
    """The settings that decide what a parser's maps hold, without where and how fast it runs."""
    left_out = {"source", "batch_size", "device"}
    return {"name": name, **settings.model_dump(mode="json", exclude=left_out)}

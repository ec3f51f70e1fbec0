"""A parser: crops in, maps of class ids out, and the metadata that decide what is in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from pivl_distill.data.part_maps import PartMap
from pivl_distill.data.vocabulary import Vocabulary
from pivl_distill.parsing.settings import (
    AnySettings,
    OnnxSettings,
    SegformerSettings,
)


@dataclass(frozen=True)
class Crop:
    """One image: its path below the data set's root, and its pixels uint8 RGB [H, W, 3]."""

    name: Path
    pixels: np.ndarray
    alone: bool = True
    """Whether no other image of the data set has the same file name."""


class Parser(Protocol):
    """What `write_maps` runs."""

    vocabulary: Vocabulary
    """What the ids mean that it gives."""
    batch_size: int
    metadata: dict[str, Any]
    """All that decides its maps, as JSON values; two parsers of equal metadata give equal maps."""

    def parse(self, crops: Sequence[Crop]) -> list[PartMap | None]:
        """The map of each crop, of its own size; None where there is no map."""
        ...


def build_parser(name: str, settings: AnySettings) -> Parser:
    """The parser that the settings describe, loaded; libraries are imported here."""
    if isinstance(settings, OnnxSettings):
        from pivl_distill.parsing.onnx_parser import OnnxParser

        return OnnxParser(name, settings)
    if isinstance(settings, SegformerSettings):
        from pivl_distill.parsing.segformer import SegformerParser

        return SegformerParser(name, settings)
    from pivl_distill.parsing.existing_maps import ExistingMaps

    return ExistingMaps(name, settings)


def parser_metadata(name: str, settings: AnySettings) -> dict[str, Any]:
    """The settings that decide what a parser's maps hold, without where and how fast it runs."""
    left_out = {"source", "batch_size", "device"}
    return {"name": name, **settings.model_dump(mode="json", exclude=left_out)}

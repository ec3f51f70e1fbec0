"""Settings of a parser: one YAML file per parser, shipped in `presets/` or written by the user.

kind: onnx        a segmentation network as an ONNX file
kind: segformer   a SegFormer from the Hugging Face hub or a folder
kind: maps        existing maps: the output of another tool, or RGB-coloured maps
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PositiveInt, field_validator, model_validator

from pivl_distill.config import (
    DeviceChoice,
    Settings,
    find_preset,
    read_yaml,
    validate_settings,
)
from pivl_distill.data.remap import remap_table
from pivl_distill.data.vocabulary import get_vocabulary
from pivl_distill.errors import PivlError, unknown_name
from pivl_distill.storage.files import expand_user

PRESETS_DIR = Path(__file__).parent / "presets"
EMBEDDED_PARSER = "embedded"


class ParserSettings(Settings):
    """Settings of every parser."""

    vocabulary: str = Field(description="vocabulary of the parser's class ids")
    to: str | None = Field(
        None, description="vocabulary to write instead (mappings: data/remap.py)"
    )
    largest_person: bool = Field(
        False, description="ignore all foreground except the largest connected region (readings 31)"
    )
    min_area: float = Field(
        0.0, ge=0, lt=1, description="ignore parts that cover a smaller share of the image"
    )

    @field_validator("vocabulary", "to")
    @classmethod
    def _check_name(cls, name: str | None) -> str | None:
        if name is not None:
            _as_value_error(get_vocabulary, name)
        return name

    @model_validator(mode="after")
    def _check_remap(self) -> ParserSettings:
        if self.to is not None:
            source, target = get_vocabulary(self.vocabulary), get_vocabulary(self.to)
            _as_value_error(remap_table, source, target)
        return self


class NetworkSettings(ParserSettings):
    """Settings of a segmentation network."""

    min_confidence: float = Field(
        0.0, ge=0, lt=1, description="ignore pixels of lower softmax probability; 0: none"
    )
    write_confidence: bool = Field(
        False, description="also store each pixel's softmax probability (readings 35)"
    )
    batch_size: PositiveInt = Field(
        16, description="crops per batch; a graph of fixed batch size overrides it"
    )
    device: DeviceChoice = Field("auto", description="auto uses CUDA if available")


class OnnxSettings(NetworkSettings):
    """Settings of `kind: onnx`; the graph takes normalised images [B, 3, H, W]."""

    kind: Literal["onnx"]
    source: Path | None = Field(None, description="ONNX file, relative to the YAML file")
    size_hw: tuple[PositiveInt, PositiveInt] = Field(description="input height and width in pixels")
    colour_order: Literal["rgb", "bgr"] = Field(
        "rgb", description="order of channels, mean and std"
    )
    mean: tuple[float, float, float] = Field(description="subtracted from pixels in 0..1")
    std: tuple[float, float, float] = Field(
        description="divides pixels after the mean is subtracted"
    )
    resize: Literal["stretch", "letterbox"] = Field(
        "stretch", description="letterbox keeps the aspect ratio and centres the crop on black"
    )
    output: str | None = Field(
        None, description="output name; optional if the graph has one output"
    )
    output_form: Literal["logits_nchw", "logits_nhwc", "labels"] = Field(
        "logits_nchw", description="scores of all classes, or class ids [B, (1,) h, w]"
    )
    align_corners: bool = Field(
        False, description="whether corner pixels of output and input coincide (SCHP: yes)"
    )

    @model_validator(mode="after")
    def _check_confidence(self) -> OnnxSettings:
        if self.output_form == "labels" and (self.min_confidence or self.write_confidence):
            raise ValueError("class ids have no confidence; remove the confidence setting")
        return self


class SegformerSettings(NetworkSettings):
    """Settings of `kind: segformer`; the model defines input size and normalisation."""

    kind: Literal["segformer"]
    source: str | None = Field(None, description="hub id, or folder written by save_pretrained")


class MapsSettings(ParserSettings):
    """Settings of `kind: maps`."""

    kind: Literal["maps"]
    source: Path | None = Field(None, description="folder of the maps, relative to the YAML file")
    values: dict[int | str, str] | None = Field(
        None,
        description="label, or 'ignore', of each stored value (a number, or a colour such as"
        " '#ff5500'); default: the class ids, or the PASCAL VOC colours in RGB maps",
    )

    @model_validator(mode="after")
    def _check_values(self) -> MapsSettings:
        for stored, label in (self.values or {}).items():
            if label != "ignore":
                _as_value_error(get_vocabulary(self.vocabulary).index, label)
            if isinstance(stored, str) and not re.fullmatch("#[0-9a-fA-F]{6}", stored):
                raise ValueError(f"'{stored}' is neither a number nor a colour such as '#ff5500'")
        return self


AnyParserSettings = OnnxSettings | SegformerSettings | MapsSettings

SETTINGS_BY_KIND: dict[str, type[ParserSettings]] = {
    "onnx": OnnxSettings,
    "segformer": SegformerSettings,
    "maps": MapsSettings,
}


def parser_presets() -> list[str]:
    """Return the names of the parsers in `presets/`."""
    return sorted(path.stem for path in PRESETS_DIR.glob("*.yaml"))


def load_parser_settings(
    parser: str, source: str | None = None, overrides: dict[str, Any] | None = None
) -> AnyParserSettings:
    """Load the settings of a preset or a YAML file; `source` and `overrides` take precedence.

    Raises PivlError, which lists all mistakes.
    """
    path = find_preset("parser", parser, PRESETS_DIR)
    values = read_yaml(path, "settings of a parser: kind, vocabulary and so on")
    kind = values.get("kind")
    if not isinstance(kind, str) or kind not in SETTINGS_BY_KIND:
        raise unknown_name(f"kind of parser in {path}:", str(kind), SETTINGS_BY_KIND)
    if kind != "segformer" and isinstance(values.get("source"), str):
        values["source"] = path.parent / expand_user(values["source"])
    values |= overrides or {}
    if source is not None:
        values["source"] = source
    settings = validate_settings(SETTINGS_BY_KIND[kind], values, str(path))
    assert isinstance(settings, AnyParserSettings)
    if settings.source is None:
        raise PivlError(
            f"The parser '{parser}' has no source: name {_SOURCE_OF_KIND[kind]} with --from."
        )
    return settings


_SOURCE_OF_KIND = {
    "onnx": "its ONNX file",
    "segformer": "a hub id or a folder",
    "maps": "the folder of the maps",
}


def _as_value_error(check: Any, *arguments: Any) -> None:
    """Call `check` and turn PivlError into ValueError, which pydantic collects."""
    try:
        check(*arguments)
    except PivlError as error:
        raise ValueError(str(error)) from error

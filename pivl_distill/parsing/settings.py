"""What a parser is, in YAML: one file per parser, shipped in `presets/` or written by the user.

kind: onnx        a segmentation network as an ONNX file
kind: segformer   a SegFormer of the Hugging Face hub, or saved in a folder
kind: maps        part maps that exist already: another tool's output, RGB pictures of maps
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, PositiveInt, field_validator, model_validator

from pivl_distill.config import Device, Settings, validate_settings
from pivl_distill.data.remap import remap_table
from pivl_distill.data.vocabulary import get_vocabulary
from pivl_distill.errors import PivlError, unknown_name

PRESETS_DIR = Path(__file__).parent / "presets"
EMBEDDED_PARSER = "embedded"


class ParserSettings(Settings):
    """What all parsers have in common."""

    vocabulary: str = Field(description="what the parser's class ids mean")
    to: str | None = Field(None, description="vocabulary to write instead (see data/remap.py)")
    largest_person: bool = Field(
        False, description="drop all but the largest connected foreground (readings 31)"
    )
    min_area: float = Field(
        0.0, ge=0, lt=1, description="share of the image below which a part counts as unknown"
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
    """A network that scores every class at every pixel."""

    min_confidence: float = Field(
        0.0, ge=0, lt=1, description="softmax probability below which a pixel is unknown; 0: none"
    )
    write_confidence: bool = Field(
        False, description="store each pixel's softmax probability too (readings 35)"
    )
    batch_size: PositiveInt = Field(
        16, description="crops at a time; a fixed-size graph has its own"
    )
    device: Device = Field("auto", description="auto takes a CUDA device where there is one")


class OnnxSettings(NetworkSettings):
    """`kind: onnx`; the graph takes normalised images [B, 3, H, W]."""

    kind: Literal["onnx"]
    source: Path | None = Field(None, description="the ONNX file, relative to the YAML file")
    size_hw: tuple[PositiveInt, PositiveInt] = Field(description="input height and width in pixels")
    colour_order: Literal["rgb", "bgr"] = Field("rgb", description="of channels, mean and std")
    mean: tuple[float, float, float] = Field(description="subtracted from pixels in 0..1")
    std: tuple[float, float, float] = Field(description="divided by afterwards")
    resize: Literal["stretch", "letterbox"] = Field(
        "stretch", description="letterbox keeps the aspect and centres the crop on black"
    )
    output: str | None = Field(None, description="output name; may be left out if there is one")
    output_form: Literal["logits_nchw", "logits_nhwc", "labels"] = Field(
        "logits_nchw", description="scores of all classes, or class ids [B, (1,) h, w]"
    )
    align_corners: bool = Field(
        False, description="whether corner pixels of output and input coincide (SCHP: yes)"
    )

    @model_validator(mode="after")
    def _check_confidence(self) -> OnnxSettings:
        if self.output_form == "labels" and (self.min_confidence or self.write_confidence):
            raise ValueError("class ids carry no confidence; leave it out")
        return self


class SegformerSettings(NetworkSettings):
    """`kind: segformer`; sizes and normalisation come with the model."""

    kind: Literal["segformer"]
    source: str | None = Field(None, description="hub id, or a folder written by save_pretrained")


class MapsSettings(ParserSettings):
    """`kind: maps`."""

    kind: Literal["maps"]
    source: Path | None = Field(None, description="folder of the maps, relative to the YAML file")
    values: dict[int | str, str] | None = Field(
        None,
        description="stored value (a number, or a colour such as '#ff5500') → label, or 'ignore';"
        " default: the ids of the vocabulary, and the colours of PASCAL VOC in RGB pictures",
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
    """Names of the parsers that are described in `presets/`."""
    return sorted(path.stem for path in PRESETS_DIR.glob("*.yaml"))


def load_parser_settings(
    parser: str, source: str | None = None, overrides: dict[str, Any] | None = None
) -> AnyParserSettings:
    """The settings of a preset or a YAML file; `source` and `overrides` take precedence.

    Raises PivlError that lists every mistake.
    """
    path = _find(parser)
    values = _read(path)
    kind = values.get("kind")
    if kind not in SETTINGS_BY_KIND:
        raise unknown_name(f"kind of parser in {path}:", str(kind), SETTINGS_BY_KIND)
    if kind != "segformer" and isinstance(values.get("source"), str):
        values["source"] = path.parent / Path(values["source"]).expanduser()
    values |= overrides or {}
    if source is not None:
        values["source"] = source
    settings = validate_settings(SETTINGS_BY_KIND[kind], values, str(path))
    assert isinstance(settings, AnyParserSettings)
    if settings.source is None:
        raise PivlError(
            f"The parser '{parser}' does not say where it is: name {_WANTED[kind]} with --from."
        )
    return settings


_WANTED = {
    "onnx": "its ONNX file",
    "segformer": "a hub id or a folder",
    "maps": "the folder of the maps",
}


def _find(parser: str) -> Path:
    for path in (Path(parser), PRESETS_DIR / f"{parser}.yaml"):
        if path.is_file():
            return path
    if Path(parser).suffix in (".yaml", ".yml"):
        raise PivlError(f"There is no parser file {parser}.")
    raise unknown_name("parser", parser, parser_presets())


def _read(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise PivlError(f"{path} is not readable YAML: {error}") from error
    if not isinstance(values, dict):
        raise PivlError(f"{path} must hold settings of a parser: kind, vocabulary and so on.")
    return values


def _as_value_error(check: Any, *arguments: Any) -> None:
    """Call `check`; pydantic gathers ValueErrors, not ours."""
    try:
        check(*arguments)
    except PivlError as error:
        raise ValueError(str(error)) from error

"""Build the parser that a preset or a YAML file describes."""

from __future__ import annotations

from pivl_distill.parsing.base import Parser
from pivl_distill.parsing.existing_maps import ExistingMapsParser
from pivl_distill.parsing.onnx_parser import OnnxParser
from pivl_distill.parsing.segformer import SegformerParser
from pivl_distill.parsing.settings import AnyParserSettings, OnnxSettings, SegformerSettings


def build_parser(name: str, settings: AnyParserSettings) -> Parser:
    """Load the parser that the settings describe; `name` identifies it in the metadata of maps."""
    if isinstance(settings, OnnxSettings):
        return OnnxParser(name, settings)
    if isinstance(settings, SegformerSettings):
        return SegformerParser(name, settings)
    return ExistingMapsParser(name, settings)

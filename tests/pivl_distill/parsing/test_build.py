"""Settings of each kind build the parser of that kind."""

from __future__ import annotations

from pathlib import Path

from pivl_distill.parsing.build import build_parser
from pivl_distill.parsing.existing_maps import ExistingMapsParser
from pivl_distill.parsing.onnx_parser import OnnxParser
from pivl_distill.parsing.settings import MapsSettings


def test_each_kind_builds_its_parser(colour_net, colour_settings, tmp_path: Path) -> None:
    assert isinstance(build_parser("colours", colour_settings(colour_net())), OnnxParser)
    maps = MapsSettings(kind="maps", vocabulary="lip20", source=tmp_path)
    parser = build_parser("maps", maps)
    assert isinstance(parser, ExistingMapsParser)
    assert parser.metadata["name"] == "maps"

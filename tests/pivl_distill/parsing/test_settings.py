"""Parsers as YAML: the shipped ones, one's own, and every mistake named at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from pivl_distill.errors import PivlError
from pivl_distill.parsing.settings import (
    MapsSettings,
    OnnxSettings,
    SegformerSettings,
    load_parser_settings,
    parser_presets,
)

OWN = """
kind: onnx
source: net.onnx
vocabulary: coarse6
size_hw: [64, 32]
mean: [0.5, 0.5, 0.5]
std: [0.5, 0.5, 0.5]
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    path = tmp_path / "own.yaml"
    path.write_text(OWN)
    return path


@pytest.mark.parametrize("name", parser_presets())
def test_every_preset_is_readable(name: str) -> None:
    assert load_parser_settings(name, source="somewhere").vocabulary


def test_schp_is_described_as_its_authors_run_it() -> None:
    sizes = {"lip": ("lip20", 473), "atr": ("atr18", 512), "pascal": ("pascal7", 512)}
    for name, (vocabulary, side) in sizes.items():
        settings = load_parser_settings(f"schp_{name}", source="schp.onnx")
        assert isinstance(settings, OnnxSettings)
        assert (settings.vocabulary, settings.size_hw) == (vocabulary, (side, side))
        assert (settings.colour_order, settings.resize) == ("bgr", "letterbox")
        assert settings.mean == (0.406, 0.456, 0.485)
        assert settings.std == (0.225, 0.224, 0.229)
        assert settings.align_corners


def test_the_embedded_parser_lies_in_the_package() -> None:
    settings = load_parser_settings("embedded")
    assert isinstance(settings, OnnxSettings)
    assert settings.source is not None
    assert settings.source.is_file()


def test_kinds_have_their_own_settings() -> None:
    assert isinstance(load_parser_settings("segformer_clothes"), SegformerSettings)
    assert isinstance(load_parser_settings("maps", source="schp_output"), MapsSettings)


def test_the_source_of_a_file_is_relative_to_it(own: Path) -> None:
    assert load_parser_settings(str(own)).source == own.parent / "net.onnx"
    assert load_parser_settings(str(own), source="other.onnx").source == Path("other.onnx")


def test_overrides_take_precedence(own: Path) -> None:
    settings = load_parser_settings(str(own), overrides={"min_area": 0.01, "batch_size": 3})
    assert isinstance(settings, OnnxSettings)
    assert (settings.min_area, settings.batch_size) == (0.01, 3)


def test_all_mistakes_are_named_together(own: Path) -> None:
    wrong = {"vocabulary": "lip02", "sizes_hw": 3, "colour_order": "rbg", "min_area": 2}
    with pytest.raises(PivlError, match="Bad settings in") as caught:
        load_parser_settings(str(own), overrides=wrong)
    said = str(caught.value)
    assert "did you mean 'lip20'?" in said
    assert "sizes_hw: unknown setting; did you mean 'size_hw'?" in said
    assert "colour_order" in said
    assert "min_area" in said


def test_settings_that_do_not_go_together(own: Path) -> None:
    with pytest.raises(PivlError, match=r"From coarse6 there is a way to no other vocabulary"):
        load_parser_settings(str(own), overrides={"to": "lip20"})
    with pytest.raises(PivlError, match="class ids have no confidence"):
        load_parser_settings(str(own), overrides={"output_form": "labels", "min_confidence": 0.5})
    with pytest.raises(PivlError, match=r"Unknown lip20 label 'Hats'; did you mean 'Hat'"):
        load_parser_settings("maps", source="x", overrides={"values": {1: "Hats"}})
    with pytest.raises(PivlError, match=r"'#12' is neither a number nor a colour"):
        load_parser_settings("maps", source="x", overrides={"values": {"#12": "Hat"}})


def test_parsers_that_do_not_exist_or_lack_their_source(tmp_path: Path) -> None:
    with pytest.raises(PivlError, match="Unknown parser 'schp_lap'; did you mean 'schp_lip'"):
        load_parser_settings("schp_lap")
    with pytest.raises(PivlError, match=r"The parser file .* does not exist"):
        load_parser_settings(str(tmp_path / "none.yaml"))
    with pytest.raises(PivlError, match="name its ONNX file with --from"):
        load_parser_settings("schp_lip")
    with pytest.raises(PivlError, match="name the folder of the maps with --from"):
        load_parser_settings("maps")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("kind: [", "not readable YAML"),
        ("just text", "must contain settings of a parser"),
        ("vocabulary: lip20", "kind of parser .* Known: maps, onnx, segformer"),
        ("kind: onxn", "did you mean 'onnx'"),
        ("kind: onnx", "size_hw: Field required"),
    ],
)
def test_files_that_describe_no_parser(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(text)
    with pytest.raises(PivlError, match=sentence):
        load_parser_settings(str(path))

"""Parser settings in YAML: presets, custom files, and errors that list every mistake."""

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

CUSTOM = """
kind: onnx
source: net.onnx
vocabulary: coarse6
size_hw: [64, 32]
mean: [0.5, 0.5, 0.5]
std: [0.5, 0.5, 0.5]
"""


@pytest.fixture
def custom_yaml(tmp_path: Path) -> Path:
    path = tmp_path / "own.yaml"
    path.write_text(CUSTOM)
    return path


@pytest.mark.parametrize("name", parser_presets())
def test_every_preset_is_valid(name: str) -> None:
    assert load_parser_settings(name, source="somewhere").vocabulary


def test_schp_presets_match_the_preprocessing_of_its_authors() -> None:
    sizes = {"lip": ("lip20", 473), "atr": ("atr18", 512), "pascal": ("pascal7", 512)}
    for name, (vocabulary, side) in sizes.items():
        settings = load_parser_settings(f"schp_{name}", source="schp.onnx")
        assert isinstance(settings, OnnxSettings)
        assert (settings.vocabulary, settings.size_hw) == (vocabulary, (side, side))
        assert (settings.colour_order, settings.resize) == ("bgr", "letterbox")
        assert settings.mean == (0.406, 0.456, 0.485)
        assert settings.std == (0.225, 0.224, 0.229)
        assert settings.align_corners


def test_embedded_parser_is_in_the_package() -> None:
    settings = load_parser_settings("embedded")
    assert isinstance(settings, OnnxSettings)
    assert settings.source is not None
    assert settings.source.is_file()


def test_each_kind_has_its_own_settings() -> None:
    assert isinstance(load_parser_settings("segformer_clothes"), SegformerSettings)
    assert isinstance(load_parser_settings("maps", source="schp_output"), MapsSettings)


def test_source_is_relative_to_the_yaml_file(custom_yaml: Path) -> None:
    assert load_parser_settings(str(custom_yaml)).source == custom_yaml.parent / "net.onnx"
    assert load_parser_settings(str(custom_yaml), source="other.onnx").source == Path("other.onnx")


def test_overrides_take_precedence(custom_yaml: Path) -> None:
    settings = load_parser_settings(str(custom_yaml), overrides={"min_area": 0.01, "batch_size": 3})
    assert isinstance(settings, OnnxSettings)
    assert (settings.min_area, settings.batch_size) == (0.01, 3)


def test_all_mistakes_are_listed_together(custom_yaml: Path) -> None:
    wrong = {"vocabulary": "lip02", "sizes_hw": 3, "colour_order": "rbg", "min_area": 2}
    with pytest.raises(PivlError, match="Bad settings in") as caught:
        load_parser_settings(str(custom_yaml), overrides=wrong)
    message = str(caught.value)
    assert "did you mean 'lip20'?" in message
    assert "sizes_hw: unknown setting; did you mean 'size_hw'?" in message
    assert "colour_order" in message
    assert "min_area" in message


def test_contradictory_settings_are_rejected(custom_yaml: Path) -> None:
    with pytest.raises(PivlError, match=r"coarse6 can be mapped to no other vocabulary"):
        load_parser_settings(str(custom_yaml), overrides={"to": "lip20"})
    with pytest.raises(PivlError, match="class ids have no confidence"):
        load_parser_settings(
            str(custom_yaml), overrides={"output_form": "labels", "min_confidence": 0.5}
        )
    with pytest.raises(PivlError, match=r"Unknown lip20 label 'Hats'; did you mean 'Hat'"):
        load_parser_settings("maps", source="x", overrides={"values": {1: "Hats"}})
    with pytest.raises(PivlError, match=r"'#12' is neither a number nor a colour"):
        load_parser_settings("maps", source="x", overrides={"values": {"#12": "Hat"}})


def test_unknown_parsers_and_missing_sources_raise(tmp_path: Path) -> None:
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
        ("kind: {onnx: 1}", "kind of parser .* Known: maps, onnx, segformer"),
        ("kind: onnx", "size_hw: Field required"),
    ],
)
def test_invalid_yaml_files_raise(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(text)
    with pytest.raises(PivlError, match=sentence):
        load_parser_settings(str(path))

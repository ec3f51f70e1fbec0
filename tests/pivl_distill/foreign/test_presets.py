"""Presets, YAML files and what has to be declared."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pivl_distill.errors import PivlError
from pivl_distill.foreign.presets import PRESETS_DIR, load_preprocessing

PRESETS = sorted(path.stem for path in PRESETS_DIR.glob("*.yaml"))


def test_presets() -> None:
    declared = {name: load_preprocessing(name) for name in PRESETS}
    assert set(declared) == {"clip-reid", "fastreid", "intel-retail", "osnet", "tao"}
    assert {settings.size_hw for settings in declared.values()} == {(256, 128)}
    inputs = {name: (s.colour, s.range, s.mean, s.std) for name, s in declared.items()}
    none = (0, 0, 0), (1, 1, 1)
    assert inputs["intel-retail"] == ("bgr", 255, *none)
    assert inputs["fastreid"] == ("rgb", 255, *none)
    assert inputs["osnet"] == ("rgb", 1, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert inputs["clip-reid"] == ("rgb", 1, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    # DeepStream's tracker multiplies by netScaleFactor after it subtracts the offsets.
    assert inputs["tao"][:3] == ("rgb", 255, (123.675, 116.28, 103.53))
    assert [1 / std for std in inputs["tao"][3]] == pytest.approx([0.01735207] * 3, rel=1e-4)


def test_every_preset_is_on_the_page_and_in_the_help() -> None:
    root = Path(__file__).parents[3]
    page = (root / "docs" / "foreign.md").read_text()
    command = (root / "pivl_distill" / "cli" / "commands" / "deployment.py").read_text()
    for name in PRESETS:
        assert f"`{name}`" in page
        assert re.search(rf"\b{name}\b", command)


def test_overrides_take_precedence_over_a_file(tmp_path: Path) -> None:
    file = tmp_path / "input.yaml"
    file.write_text("colour: bgr\nrange: 255\nsize_hw: [128, 64]\n")
    settings = load_preprocessing(str(file), {"colour": "rgb"})
    assert (settings.colour, settings.range, settings.size_hw) == ("rgb", 255, (128, 64))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({}, "declare colour and range, .* a preset: clip-reid, fastreid, intel-retail, osnet"),
        ({"range": 1}, "declare colour, with"),
        ({"colour": "rgb", "range": 1, "mean": (123.675, 116.28, 103.53)}, r"pixels in 0\.\.1"),
        ({"colour": "rgb", "range": 255, "mean": (0.485, 0.456, 0.406)}, r"pixels in 0\.\.255"),
        ({"colour": "rgb", "range": 255, "std": (0, 1, 1)}, "std.0: Input should be greater"),
        ({"colour": "rgb", "range": 2}, "range: Input should be 1 or 255"),
        ({"colour": "rgb", "range": 1, "sise": 3}, "sise: unknown setting; did you mean 'size_hw'"),
    ],
)
def test_mistakes_are_named(overrides, message) -> None:
    with pytest.raises(PivlError, match=message):
        load_preprocessing(overrides=overrides)


def test_unknown_presets_and_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(PivlError, match="made is not in its file: declare colour and range"):
        load_preprocessing()
    (tmp_path / "mine.yaml").write_text("range: 1")
    with pytest.raises(PivlError, match=r"not in .*mine\.yaml as a whole: declare colour,"):
        load_preprocessing(str(tmp_path / "mine.yaml"))
    with pytest.raises(PivlError, match="Unknown preprocessing 'osnt'; did you mean 'osnet'"):
        load_preprocessing("osnt")
    with pytest.raises(PivlError, match=r"The preprocessing file none\.yaml does not exist"):
        load_preprocessing("none.yaml")
    (tmp_path / "list.yaml").write_text("- 1")
    with pytest.raises(PivlError, match="must contain settings of a network's input"):
        load_preprocessing(str(tmp_path / "list.yaml"))

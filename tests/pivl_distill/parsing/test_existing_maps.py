"""Maps of other tools: looked up by name, mapped value by value, rejected if they do not fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pivl_distill.data.vocabulary import ATR18, COARSE6, IGNORE, LIP20
from pivl_distill.errors import PivlError
from pivl_distill.parsing.base import ParserInput
from pivl_distill.parsing.existing_maps import ExistingMapsParser
from pivl_distill.parsing.settings import MapsSettings

NAME = Path("bounding_box_train/0002_c1s1_000451_03.jpg")
LABELS = np.array([[0, 1, 13], [5, 18, 19]], np.uint8)


def crop(size_hw: tuple[int, int] = (2, 3), has_unique_stem: bool = True) -> ParserInput:
    return ParserInput(NAME, np.zeros((*size_hw, 3), np.uint8), has_unique_stem)


def maps(folder: Path, **settings: object) -> ExistingMapsParser:
    return ExistingMapsParser(
        "maps",
        MapsSettings(**{"kind": "maps", "vocabulary": "lip20", "source": folder, **settings}),
    )


def save(picture: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)


def palette_picture(labels: np.ndarray) -> Image.Image:
    picture = Image.fromarray(labels)
    picture.putpalette(LIP20.palette.tobytes())
    return picture


@pytest.mark.parametrize(
    "place", [NAME.with_suffix(".png"), NAME.with_suffix(".png").name, "x_parsing_pgt"]
)
def test_schp_output_is_found_in_a_tree_or_flat_folder(tmp_path: Path, place) -> None:
    if place == "x_parsing_pgt":
        place = f"bounding_box_train_parsing_pgt/{NAME.stem}.png"
    save(palette_picture(LABELS), tmp_path / place)
    (part_map,) = maps(tmp_path).parse([crop()])
    np.testing.assert_array_equal(part_map.labels, LABELS)


def test_endings_of_images_and_maps_may_be_in_upper_case(tmp_path: Path) -> None:
    save(palette_picture(LABELS), tmp_path / f"{NAME.stem}.PNG")
    pixels = np.zeros((2, 3, 3), np.uint8)
    (part_map,) = maps(tmp_path).parse([ParserInput(NAME.with_suffix(".WEBP"), pixels)])
    np.testing.assert_array_equal(part_map.labels, LABELS)


def test_image_without_a_map_gets_none_and_no_namesake(tmp_path: Path) -> None:
    assert maps(tmp_path).parse([crop()]) == [None]
    save(palette_picture(LABELS), tmp_path / f"{NAME.stem}.png")
    assert maps(tmp_path).parse([crop(has_unique_stem=False)]) == [None]


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_maps_in_voc_colours_are_read_back(tmp_path: Path, mode: str) -> None:
    save(Image.fromarray(LIP20.palette[LABELS]).convert(mode), tmp_path / f"{NAME.stem}.png")
    (part_map,) = maps(tmp_path).parse([crop()])
    np.testing.assert_array_equal(part_map.labels, LABELS)


def test_custom_numbers_and_colours_are_mapped(tmp_path: Path) -> None:
    stored = np.array([[0, 40], [41, 200]], np.uint8)
    save(Image.fromarray(stored), tmp_path / f"{NAME.stem}.png")
    meaning = {0: "Background", 40: "Hat", 41: "Hat", 200: "ignore"}
    (part_map,) = maps(tmp_path, values=meaning).parse([crop((2, 2))])
    assert part_map.labels.tolist() == [[0, 1], [1, IGNORE]]

    palette = palette_picture(np.array([[0, 1]], np.uint8))  # colours count, not indices
    save(palette, tmp_path / f"{NAME.stem}.png")
    colours = {"#000000": "Background", "#800000": "Dress"}
    (part_map,) = maps(tmp_path, values=colours).parse([crop((1, 2))])
    assert part_map.labels.tolist() == [[0, 6]]


def test_maps_of_another_scale_are_resized_to_the_image(tmp_path: Path) -> None:
    save(palette_picture(LABELS), tmp_path / f"{NAME.stem}.png")
    (part_map,) = maps(tmp_path).parse([crop((4, 6))])
    np.testing.assert_array_equal(part_map.labels, LABELS.repeat(2, 0).repeat(2, 1))
    with pytest.raises(
        PivlError, match=r"3×2 pixels but its image .* is 2×6: the aspect ratios differ"
    ):
        maps(tmp_path).parse([crop((6, 2))])


def test_stored_confidence_is_kept(tmp_path: Path) -> None:
    confidence = np.array([[0, 100, 255], [255, 50, 7]], np.uint8)
    picture = Image.fromarray(LABELS)
    picture.putalpha(Image.fromarray(confidence))
    save(picture, tmp_path / f"{NAME.stem}.png")
    (part_map,) = maps(tmp_path).parse([crop()])
    np.testing.assert_array_equal(part_map.labels, LABELS)
    np.testing.assert_array_equal(part_map.confidence, confidence)


def test_unknown_values_are_shown(tmp_path: Path) -> None:
    save(palette_picture(LABELS), tmp_path / f"{NAME.stem}.png")
    with pytest.raises(PivlError, match=r"contains 18, which has no class: choose the right voc"):
        maps(tmp_path, vocabulary="atr18").parse([crop()])
    save(Image.new("RGB", (3, 2), (1, 2, 3)), tmp_path / f"{NAME.stem}.png")
    with pytest.raises(PivlError, match="contains #010203, which has no class"):
        maps(tmp_path).parse([crop()])


def test_other_files_are_rejected(tmp_path: Path) -> None:
    path = tmp_path / f"{NAME.stem}.png"
    Image.fromarray(LABELS).save(path, "JPEG")
    with pytest.raises(PivlError, match=r"a JPEG of mode L; .*JPEG changes their values"):
        maps(tmp_path).parse([crop()])
    path.write_text("no image")
    with pytest.raises(PivlError, match="Cannot read the part map"):
        maps(tmp_path).parse([crop()])


def test_missing_folder_or_other_vocabulary_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(PivlError, match=r"folder of maps .* does not exist"):
        maps(tmp_path / "nowhere")
    (tmp_path / "parsing.json").write_text('{"vocabulary": "atr18"}')
    with pytest.raises(PivlError, match=r"in atr18, not lip20: use --set vocabulary=atr18"):
        maps(tmp_path)
    assert maps(tmp_path, vocabulary="atr18").vocabulary is ATR18
    assert COARSE6.name not in maps(tmp_path, vocabulary="atr18").metadata.values()

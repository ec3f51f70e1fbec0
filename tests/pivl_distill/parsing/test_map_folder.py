"""Folders of maps: readable by the loader, bound to one parser, safe to interrupt."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pivl_distill.data.part_maps import (
    FULL_CONFIDENCE,
    PartMap,
    find_map,
    folder_vocabulary,
    read_confidence,
    read_map,
)
from pivl_distill.data.vocabulary import COARSE6, IGNORE, LIP20, VOCABULARIES
from pivl_distill.errors import PivlError
from pivl_distill.parsing.map_folder import MapFolder, lock_folder

NAME = Path("train/0002/a.jpg")
PARSER = {"name": "any", "colour_order": "rgb", "sha256": "00", "values": {3: "Head"}}


@pytest.mark.parametrize("vocabulary", VOCABULARIES.values(), ids=VOCABULARIES)
def test_written_maps_are_read_back_by_the_loader(tmp_path: Path, vocabulary) -> None:
    labels = np.arange(len(vocabulary), dtype=np.uint8)[None].repeat(2, 0)
    labels[1] = IGNORE
    folder = MapFolder(tmp_path / "maps", vocabulary, PARSER)
    folder.write(NAME, PartMap(labels))
    path = find_map(folder.path, NAME)
    assert path == folder.map_path(NAME)
    assert folder_vocabulary(folder.path) == vocabulary
    np.testing.assert_array_equal(read_map(path, labels.shape, vocabulary), labels)
    with Image.open(path) as image:
        assert image.mode == "P"
        colours = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(colours[0], vocabulary.palette)


def test_confidence_is_read_back(tmp_path: Path) -> None:
    labels = np.array([[0, 5], [IGNORE, 2]], np.uint8)
    confidence = np.array([[255, 90], [0, 128]], np.uint8)
    folder = MapFolder(tmp_path / "maps", COARSE6, PARSER)
    folder.write(NAME, PartMap(labels, confidence))
    path = folder.map_path(NAME)
    assert folder.has_map(NAME, (2, 2))
    np.testing.assert_array_equal(folder.read(NAME), labels)
    np.testing.assert_array_equal(read_map(path, (2, 2), COARSE6), labels)
    np.testing.assert_array_equal(read_confidence(path, (2, 2)), confidence)
    folder.write(NAME, PartMap(labels))
    assert (read_confidence(path, (4, 4)) == FULL_CONFIDENCE).all()


def test_damaged_maps_and_wrong_sizes_do_not_count(tmp_path: Path) -> None:
    folder = MapFolder(tmp_path / "maps", COARSE6, PARSER)
    assert not folder.has_map(NAME, (4, 2))
    folder.write(NAME, PartMap(np.zeros((4, 2), np.uint8)))
    assert folder.has_map(NAME, (4, 2))
    assert not folder.has_map(NAME, (2, 4))
    map_bytes = folder.map_path(NAME).read_bytes()
    folder.map_path(NAME).write_bytes(map_bytes[: len(map_bytes) // 2])
    assert not folder.has_map(NAME, (4, 2))
    folder.write(NAME, PartMap(np.full((4, 2), 6, np.uint8)))  # coarse6 ends at 5
    assert not folder.has_map(NAME, (4, 2))


def test_same_parser_may_resume(tmp_path: Path) -> None:
    MapFolder(tmp_path / "maps", COARSE6, PARSER).finish(7)
    manifest = json.loads((tmp_path / "maps" / "parsing.json").read_text())
    assert manifest["maps"] == 7
    assert manifest["labels"] == list(COARSE6.labels)
    assert MapFolder(tmp_path / "maps", COARSE6, PARSER).path == tmp_path / "maps"


def test_partial_files_of_killed_writes_are_removed(tmp_path: Path) -> None:
    out = tmp_path / "maps"
    out.mkdir()
    (out / ".parsing.json.x1.partial").write_text("{")
    folder = MapFolder(out, COARSE6, PARSER)
    assert [path.name for path in out.iterdir()] == ["parsing.json"]
    folder.write(NAME, PartMap(np.zeros((4, 2), np.uint8)))
    folder.map_path(NAME).with_name(".b.png.x2.partial").write_bytes(b"half")
    MapFolder(out, COARSE6, PARSER)
    assert [path.name for path in folder.map_path(NAME).parent.iterdir()] == ["a.png"]


def test_only_one_command_writes_to_a_folder(tmp_path: Path) -> None:
    out = tmp_path / "maps"
    message = r"Another process is writing maps to .*maps; wait for it or stop it\."
    with lock_folder(out):
        MapFolder(out, COARSE6, PARSER)
        with pytest.raises(PivlError, match=message), lock_folder(out):
            pass
        with lock_folder(tmp_path / "others"):
            pass
    assert [path.name for path in out.iterdir()] == ["parsing.json"]
    (out / ".lock").touch()  # as after a killed command
    with lock_folder(out):
        pass


def test_lock_file_of_a_killed_command_is_ignored(tmp_path: Path) -> None:
    (tmp_path / ".lock").touch()
    with lock_folder(tmp_path):
        MapFolder(tmp_path, COARSE6, PARSER)
    assert [path.name for path in tmp_path.iterdir()] == ["parsing.json"]


def test_error_for_another_parser_lists_the_differences(tmp_path: Path) -> None:
    out = tmp_path / "maps"
    MapFolder(out, COARSE6, PARSER)
    with pytest.raises(PivlError, match=r"other settings: vocabulary was coarse6, is lip20\. Name"):
        MapFolder(out, LIP20, PARSER)
    changed = {**PARSER, "colour_order": "bgr", "sha256": "01"}
    message = r"other settings: parser colour_order was rgb, is bgr; parser sha256 was 00, is 01\."
    with pytest.raises(PivlError, match=message):
        MapFolder(out, COARSE6, changed)
    (out / "parsing.json").write_text('{"vocabulary": "coarse6", "parser": "by hand"}')
    with pytest.raises(PivlError, match="parser was by hand"):
        MapFolder(out, COARSE6, PARSER)


def test_folders_with_other_files_are_rejected_unchanged(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("mine")
    for place in (tmp_path, tmp_path / "a.txt"):
        message = r"exists and contains no parsing\.json"
        with pytest.raises(PivlError, match=message), lock_folder(place):
            MapFolder(place, COARSE6, PARSER)
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    (tmp_path / "parsing.json").write_text("{")
    with pytest.raises(PivlError, match="is damaged"):
        MapFolder(tmp_path, COARSE6, PARSER)


def test_maps_are_not_written_through_links(tmp_path: Path) -> None:
    folder = MapFolder(tmp_path / "maps", LIP20, {"name": "me"})
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "maps" / "train").symlink_to("../elsewhere")
    labels = PartMap(np.zeros((4, 4), np.uint8))
    for image in ("train/a.jpg", "../elsewhere/a.jpg"):
        with pytest.raises(PivlError, match="is in a link to outside of"):
            folder.write(Path(image), labels)
    assert list((tmp_path / "elsewhere").iterdir()) == []

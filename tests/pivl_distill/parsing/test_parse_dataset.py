"""A map for every image: byte-identical after an interruption, and no map is written twice."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pivl_distill.data.datasets import with_maps
from pivl_distill.data.part_maps import PartMap
from pivl_distill.data.records import Record
from pivl_distill.data.vocabulary import COARSE6
from pivl_distill.errors import PivlError
from pivl_distill.parsing.base import ParserInput
from pivl_distill.parsing.onnx_parser import OnnxParser
from pivl_distill.parsing.parse_dataset import parse_dataset, plan_jobs, write_maps
from pivl_distill.parsing.postprocessing import MapPostprocessor
from pivl_distill.parsing.settings import MapsSettings

NO_POSTPROCESSING = MapPostprocessor(MapsSettings(kind="maps", vocabulary="coarse6"))


class Brightness:
    """Parser that returns class 1 for bright pixels, records its crops and can stop like Ctrl-C."""

    vocabulary = COARSE6
    batch_size = 2

    def __init__(self, stop_after: int | None = None, skip: str = "", **metadata: Any) -> None:
        self.metadata = {"name": "brightness", **metadata}
        self.parsed: list[Path] = []
        self.stop_after = stop_after
        self.skip = skip

    def parse(self, crops: Sequence[ParserInput]) -> list[PartMap | None]:
        if self.stop_after is not None and len(self.parsed) >= self.stop_after:
            raise KeyboardInterrupt
        self.parsed += [crop.name for crop in crops]
        maps = [PartMap((crop.pixels.max(2) > 128).astype(np.uint8)) for crop in crops]
        return [
            None if crop.name.stem == self.skip else part_map
            for crop, part_map in zip(crops, maps, strict=True)
        ]


def bytes_of(folder: Path) -> dict[Path, bytes]:
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_every_image_has_a_map_in_the_same_subfolders(colour_data, tmp_path: Path) -> None:
    out = tmp_path / "maps"
    report = write_maps(colour_data, Brightness(), NO_POSTPROCESSING, out)
    assert (report.written, report.kept, report.missing) == (6, 0, ())
    mapped = with_maps(colour_data, out)
    for record in mapped.train:
        assert record.parsing is not None
        with Image.open(record.path) as image, Image.open(record.parsing) as labels:
            assert image.size == labels.size
            bright = np.asarray(image).max(2) > 128
            np.testing.assert_array_equal(np.asarray(labels), bright)
    assert json.loads((out / "parsing.json").read_text())["maps"] == 6
    assert report.statistics.maps == 6
    assert report.statistics.classes == 2
    assert report.agreement is None


def test_qa_sheet_shows_crops_and_maps(colour_data, tmp_path: Path) -> None:
    report = write_maps(colour_data, Brightness(), NO_POSTPROCESSING, tmp_path / "maps")
    assert report.sheet == tmp_path / "maps" / "parsing.png"
    sheet = np.asarray(Image.open(report.sheet))
    with Image.open(colour_data.train[0].path) as first:
        crop = np.asarray(first.resize((96, 192)))
    np.testing.assert_array_equal(sheet[:192, :96], crop)
    shown = {tuple(colour) for colour in sheet[:192, 96:192].reshape(-1, 3).tolist()}
    assert shown == {(0, 0, 0), (128, 0, 0)}


@pytest.mark.parametrize("stop_after", [0, 2, 4])
def test_resumed_run_is_byte_identical(colour_data, tmp_path: Path, stop_after: int) -> None:
    write_maps(colour_data, Brightness(), NO_POSTPROCESSING, tmp_path / "uninterrupted")
    out = tmp_path / "maps"
    with pytest.raises(KeyboardInterrupt):
        write_maps(colour_data, Brightness(stop_after), NO_POSTPROCESSING, out)
    again = Brightness()
    report = write_maps(colour_data, again, NO_POSTPROCESSING, out)
    assert (report.written, report.kept) == (6 - stop_after, stop_after)
    assert len(again.parsed) == 6 - stop_after
    assert bytes_of(out) == bytes_of(tmp_path / "uninterrupted")
    idle = Brightness()
    assert write_maps(colour_data, idle, NO_POSTPROCESSING, out).kept == 6
    assert idle.parsed == []


def test_damaged_maps_and_maps_of_replaced_images_are_rewritten(
    colour_data, tmp_path: Path
) -> None:
    out = tmp_path / "maps"
    write_maps(colour_data, Brightness(), NO_POSTPROCESSING, out)
    before = bytes_of(out)
    (out / "train/0/0.png").write_bytes(b"half")
    (out / "train/1/3.png").write_bytes(before[Path("train/0/0.png")])  # a map of another size
    parser = Brightness()
    assert write_maps(colour_data, parser, NO_POSTPROCESSING, out).written == 2
    assert parser.parsed == [Path("train/0/0.png"), Path("train/1/3.png")]
    assert bytes_of(out) == before


def test_maps_of_another_parser_are_not_mixed(colour_data, tmp_path: Path) -> None:
    out = tmp_path / "maps"
    write_maps(colour_data, Brightness(threshold=128), NO_POSTPROCESSING, out)
    before = bytes_of(out)
    with pytest.raises(PivlError, match="parser threshold was 128, is 60"):
        write_maps(colour_data, Brightness(threshold=60), NO_POSTPROCESSING, out)
    assert bytes_of(out) == before


def test_images_without_a_map_are_counted_and_parsed_again(colour_data, tmp_path: Path) -> None:
    report = write_maps(colour_data, Brightness(skip="3"), NO_POSTPROCESSING, tmp_path / "maps")
    assert report.missing == (Path("train/1/3.png"),)
    assert report.statistics.maps == report.written == 5
    parser = Brightness()
    assert write_maps(colour_data, parser, NO_POSTPROCESSING, tmp_path / "maps").written == 1
    assert parser.parsed == [Path("train/1/3.png")]


def test_no_maps_give_no_qa_sheet(colour_data, tmp_path: Path) -> None:
    none = dataclasses.replace(colour_data, train=colour_data.train[:1])
    report = write_maps(none, Brightness(skip="0"), NO_POSTPROCESSING, tmp_path / "maps")
    assert report.sheet is None
    assert report.statistics.maps == 0


def test_other_splits_are_parsed_on_request(colour_data, tmp_path: Path) -> None:
    train, query = colour_data.train[:4], colour_data.train[4:]
    split = dataclasses.replace(colour_data, train=train, query=query, gallery=query)
    assert write_maps(split, Brightness(), NO_POSTPROCESSING, tmp_path / "train").written == 4
    every = write_maps(
        split, Brightness(), NO_POSTPROCESSING, tmp_path / "all", ("train", "query", "gallery")
    )
    assert every.written == 6


def test_maps_are_compared_with_those_of_the_data_set(colour_data, tmp_path: Path) -> None:
    write_maps(colour_data, Brightness(), NO_POSTPROCESSING, tmp_path / "first")
    mapped = with_maps(colour_data, tmp_path / "first")
    same = write_maps(mapped, Brightness(), NO_POSTPROCESSING, tmp_path / "second")
    assert same.agreement is not None
    assert same.agreement.mean_iou == 1.0
    assert write_maps(mapped, Brightness(), NO_POSTPROCESSING, tmp_path / "first").agreement is None
    other = dataclasses.replace(mapped, vocabulary=dataclasses.replace(COARSE6, name="other"))
    assert write_maps(other, Brightness(), NO_POSTPROCESSING, tmp_path / "second").agreement is None


def test_two_images_cannot_share_a_map(colour_data) -> None:
    twin = colour_data.train[0].path.with_suffix(".jpg")
    data = dataclasses.replace(colour_data, train=(*colour_data.train, Record(twin, 0, 0)))
    with pytest.raises(PivlError, match=r"0\.jpg and .*0\.png would share one map"):
        plan_jobs(data, ("train",))


def test_unreadable_image_stops_the_run_and_keeps_written_maps(colour_data, tmp_path: Path) -> None:
    colour_data.train[5].path.write_bytes(b"no image")
    with pytest.raises(PivlError, match=r"Cannot read the image .*5\.png"):
        write_maps(colour_data, Brightness(), NO_POSTPROCESSING, tmp_path / "maps")
    data = dataclasses.replace(colour_data, train=colour_data.train[:5])
    image_bytes = data.train[4].path.read_bytes()
    data.train[4].path.write_bytes(image_bytes[:-40])  # its size can be read, its pixels cannot
    with pytest.raises(PivlError, match=r"Cannot read the image .*4\.png"):
        write_maps(data, Brightness(), NO_POSTPROCESSING, tmp_path / "maps")
    data.train[4].path.write_bytes(image_bytes)
    assert write_maps(data, Brightness(), NO_POSTPROCESSING, tmp_path / "maps").kept == 4


def test_an_onnx_network_parses_a_data_set(
    colour_data, colour_net, colour_settings, tmp_path: Path
) -> None:
    settings = colour_settings(colour_net())
    parser = OnnxParser("colours", settings)
    report = write_maps(colour_data, parser, MapPostprocessor(settings), tmp_path / "maps")
    assert report.written == 6
    assert report.statistics.classes == 4


def test_an_import_without_a_map_of_any_image_is_refused_before_anything_is_written(
    colour_data, tmp_path: Path
) -> None:
    maps, out = tmp_path / "schp", tmp_path / "maps"
    maps.mkdir()
    arguments = (colour_data, "maps", str(maps), {"vocabulary": "lip20"}, out)
    with pytest.raises(PivlError, match=r"for train/0/0\.png, looked for train/0/0\.png, .*no PNG"):
        parse_dataset(*arguments)
    Image.new("L", (8, 16)).save(maps / "other_0.png")
    with pytest.raises(PivlError, match=r"No parsing map in .*schp .*the folder has other_0\.png"):
        parse_dataset(*arguments)
    assert not out.exists()


def test_photographs_require_an_explicit_parser(colour_data, tmp_path) -> None:
    with pytest.raises(PivlError, match=r"rendered people only; choose one .*schp_lip"):
        parse_dataset(colour_data, None)
    report = parse_dataset(colour_data, "embedded")
    assert report.folder == colour_data.root / "parsing-embedded"

"""Manifests: rows with or without cameras and maps, and errors for wrong rows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from pivl_distill.data.datasets import load_dataset
from pivl_distill.data.records import ReIDDataset
from pivl_distill.data.table import load_manifest
from pivl_distill.errors import PivlError


def labels(dataset: ReIDDataset) -> dict[str, list[tuple[int, int | None]]]:
    return {
        split: [(record.pid, record.camid) for record in records]
        for split, records in dataset.splits.items()
    }


ROWS = [
    {"path": "a/1.jpg", "pid": 3, "cam": "c2", "split": "train"},
    {"path": "a/2.jpg", "pid": "0012", "cam": 10, "split": "train"},
    {"path": "a/3.jpg", "pid": 7, "cam": "10", "split": "query"},
    {"path": "a/4.jpg", "pid": 7, "cam": 9, "split": "gallery"},
    {"path": "a/5.jpg", "pid": -1, "cam": 9, "split": "gallery"},
]


def write_manifest(path: Path, rows: list[dict[str, object]]) -> Path:
    if path.suffix == ".jsonl":
        text = "\n".join(json.dumps(row) for row in rows) + "\n\n"
    else:
        columns = list(rows[0])
        lines = [columns, *([row[column] for column in columns] for row in rows)]
        text = "\ufeff" + "".join(",".join(map(str, line)) + "\r\n" for line in lines)
    path.write_text(text, encoding="utf-8", newline="")
    return path


@pytest.mark.parametrize("name", ["crops.csv", "crops.jsonl"])
def test_manifests(tmp_path: Path, plant, name: str) -> None:
    plant(tmp_path, (str(row["path"]) for row in ROWS))
    dataset = load_manifest(write_manifest(tmp_path / name, ROWS))
    assert (dataset.name, dataset.root) == ("manifest", tmp_path)
    # Cameras that are numbers come first and in their order: 9, 10, c2.
    assert labels(dataset) == {"train": [(3, 2), (12, 1)], "query": [(7, 1)], "gallery": [(7, 0)]}
    assert dataset.vocabulary is None


@pytest.mark.parametrize("cam", ["absent", "", None])
@pytest.mark.parametrize("name", ["crops.csv", "crops.jsonl"])
def test_manifests_without_cameras(tmp_path: Path, plant, name: str, cam: str | None) -> None:
    plant(tmp_path, (str(row["path"]) for row in ROWS))
    rows = [{key: value for key, value in row.items() if key != "cam"} for row in ROWS]
    if cam != "absent":
        empty = "" if name == "crops.csv" else cam
        rows = [{**row, "cam": empty} for row in rows]
    assert not load_manifest(write_manifest(tmp_path / name, rows)).has_cameras


def test_images_elsewhere_need_a_root(tmp_path: Path, plant) -> None:
    images = plant(tmp_path / "images", (str(row["path"]) for row in ROWS))
    (tmp_path / "lists").mkdir()
    for folder in (str(images), "../images"):
        rows = [{**row, "path": f"{folder}/{row['path']}"} for row in ROWS]
        manifest = write_manifest(tmp_path / "lists" / "crops.csv", rows)
        dataset = load_dataset(f"manifest:{manifest}?root={images}")
        assert dataset.train[0].path.resolve() == images / "a" / "1.jpg"
        assert len(dataset.fingerprint) == 64
        with pytest.raises(PivlError, match=r"Line 2 of .* leads out of its folder.*\?root=FOLDER"):
            load_manifest(manifest)
        with pytest.raises(PivlError, match=r"Line 2 of .*is not in .*lists"):
            load_manifest(manifest, str(tmp_path / "lists"))


@pytest.mark.parametrize("column", ["path", "parsing"])
@pytest.mark.parametrize(
    "name",
    ["../secret.png", "/secret.png", "C:secret.png", "a\\1.jpg", "a/\0", "link", "out/x", "."],
)
@pytest.mark.parametrize("root", [None, "."])
def test_rows_lead_into_the_folder_only(tmp_path: Path, plant, column, name, root) -> None:
    folder = plant(tmp_path / "data", (str(row["path"]) for row in ROWS))
    (tmp_path / "secret.png").touch()
    (folder / "link").symlink_to("../secret.png")
    (folder / "out").symlink_to("..")
    rows = [{**ROWS[0], column: name}, *ROWS[1:]]
    manifest = write_manifest(folder / "crops.jsonl", rows)
    with pytest.raises(PivlError, match=r"crops\.jsonl"):
        load_manifest(manifest, None if root is None else str(folder))


def test_links_within_the_folder_are_followed(tmp_path: Path, plant) -> None:
    folder = plant(tmp_path / "data", (str(row["path"]) for row in ROWS))
    (folder / "b").symlink_to("a")
    (folder / "one.jpg").symlink_to("a/1.jpg")
    (tmp_path / "way").symlink_to("data")
    rows = [{**row, "path": str(row["path"]).replace("a/", "b/")} for row in ROWS]
    rows[0] = {**rows[0], "path": "one.jpg"}
    manifest = write_manifest(folder / "crops.csv", rows)
    assert len(load_manifest(manifest).train) == 2
    assert len(load_manifest(tmp_path / "way" / "crops.csv").train) == 2


@pytest.mark.parametrize("line", ["[" * 100_000, '{"pid": ' + "9" * 9_999 + "}", '{"x' * 99_999])
def test_hostile_lines_are_refused_briefly(tmp_path: Path, line: str) -> None:
    for name in ("crops.jsonl", "crops.csv"):
        (tmp_path / name).write_text(line)
        with pytest.raises(PivlError, match="crops") as raised:
            load_manifest(tmp_path / name)
        assert len(str(raised.value)) < 500


@pytest.mark.parametrize("place", [".", "maps"])
def test_maps_in_a_manifest(tmp_path: Path, plant, place: str) -> None:
    plant(tmp_path, (str(row["path"]) for row in ROWS))
    maps = ["maps/x/1.png", "", "", "", ""]
    (tmp_path / "maps/x").mkdir(parents=True)
    Image.new("L", (8, 16)).save(tmp_path / maps[0])
    rows = [{**row, "parsing": file} for row, file in zip(ROWS, maps, strict=True)]
    manifest = write_manifest(tmp_path / "crops.csv", rows)
    with pytest.raises(PivlError, match=r"parsing\.json"):
        load_manifest(manifest)
    (tmp_path / place / "parsing.json").write_text('{"vocabulary": "lip20"}')
    dataset = load_manifest(manifest)
    assert dataset.vocabulary is not None
    assert dataset.vocabulary.name == "lip20"
    assert [record.parsing for record in dataset.train] == [tmp_path / maps[0], None]
    (tmp_path / maps[0]).unlink()
    with pytest.raises(PivlError, match=r"crops\.csv names 1 files .*1\.png"):
        load_manifest(manifest)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"split": "test"}, "Unknown split on line 2 of .*'test'"),
        ({"split": ""}, "Unknown split on line 2"),
        ({"split": None}, "Unknown split on line 2"),
        ({"pid": "anna"}, "Line 2 of .* has the identity 'anna', which is not an integer"),
        ({"pid": None}, "Line 2 .* has the identity '', which is not an integer"),
        ({"pid": True}, "Line 2 .* has True for pid"),
        ({"pid": 3.0}, "Line 2 .* has 3.0 for pid"),
        ({"pid": 10**20}, "has the identity '10+', which is not an integer of at most 18 digits"),
        ({"cam": False}, "Line 2 .* has False for cam"),
        ({"cam": ["c1"]}, r"has \['c1'\] for cam"),
        ({"cam": None}, r"2\.jpg has no camera while others have one"),
        ({"path": ""}, "Line 2 .* has no image"),
        ({"path": "a/gone.jpg"}, r"names 1 files that do not exist .*a/gone\.jpg"),
        ({"path": "a\nb"}, r"files that do not exist \(first: '.*a\\nb'\)\."),
        ({"camera": 1}, "Unknown column .*'camera'; did you mean 'cam'"),
    ],
)
def test_error_names_the_line_of_a_wrong_row(tmp_path: Path, plant, change, sentence: str) -> None:
    plant(tmp_path, (str(row["path"]) for row in ROWS))
    rows = [ROWS[0], {**ROWS[1], **change}, *ROWS[2:]]
    with pytest.raises(PivlError, match=sentence):
        load_manifest(write_manifest(tmp_path / "crops.jsonl", rows))


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("crops.csv", "", "has no column path, pid, split; it has none"),
        ("crops.csv", "path,pid\n", "has no column split; it has path, pid"),
        ("crops.csv", "path;pid;cam;split\n", "Unknown column"),
        ("crops.csv", "path,pid,camm,split\n", "did you mean 'cam'"),
        (
            "crops.csv",
            "path,pid,split\na.jpg,1\n",
            "Line 2 .* does not have as many fields as the header",
        ),
        ("crops.csv", "path,pid,split\na.jpg,1,train,x\n", "not have as many fields as the header"),
        ("crops.csv", 'path,pid,split\n"a.jpg,1,train\n', "is not CSV"),
        ("crops.csv", "path,pid,split\n", "'train' of .*crops.csv contains no images"),
        ("crops.csv", b"path,pid,split\n\xff,1,train\n", "not UTF-8"),
        ("crops.jsonl", "{\n", "Line 1 of .* is not JSON"),
        ("crops.jsonl", "[1]\n", "Line 1 of .* is not a JSON object"),
        ("crops.jsonl", '{"path": "a.jpg"}\n', "has no column pid, split"),
        ("crops.jsonl", "", "'train' of .*crops.jsonl contains no images"),
        ("crops.txt", "", "is not a manifest: use a .csv table or a .jsonl file"),
    ],
)
def test_malformed_manifest_is_an_error(tmp_path: Path, name: str, content, sentence: str) -> None:
    text = content if isinstance(content, bytes) else content.encode()
    (tmp_path / name).write_bytes(text)
    with pytest.raises(PivlError, match=sentence):
        load_manifest(tmp_path / name)
    with pytest.raises(PivlError, match=r"There is no file|is not a manifest"):
        load_manifest(tmp_path / f"gone{name}")

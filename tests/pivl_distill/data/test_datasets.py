"""Datasets: the Market-1501 rules, the layouts of part maps, and the errors that help."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from pivl_distill.data.datasets import load_dataset
from pivl_distill.errors import PivlError

NAMES = {
    "bounding_box_train": ("0002_c1s1_000451_03.jpg", "0002_c10s2_000001_01.jpg", "0007_c3.jpg"),
    "query": ("0011_c2s1_000001_00.jpg",),
    "bounding_box_test": ("-1_c1s1_000401_03.jpg", "0000_c1s1_000151_01.jpg", "0011_c1s1_0.jpg"),
}


def make_tree(root: Path) -> Path:
    """Empty files with Market-1501 names: loading a dataset reads no pixels."""
    for split, names in NAMES.items():
        (root / split).mkdir(parents=True)
        for name in (*names, "Thumbs.db"):
            (root / split / name).touch()
    return root


def make_maps(folder: Path, subfolder: str = "bounding_box_train") -> Path:
    (folder / subfolder).mkdir(parents=True, exist_ok=True)
    (folder / "parsing.json").write_text('{"vocabulary": "lip20"}')
    for name in NAMES["bounding_box_train"][:2]:
        (folder / subfolder / name).with_suffix(".png").touch()
    return folder


def test_market_rules(tmp_path: Path) -> None:
    dataset = load_dataset(f"market1501:{make_tree(tmp_path)}")
    assert dataset.name == "market1501"
    train = [(record.path.name, record.pid, record.camid) for record in dataset.train]
    # Sorted by name; c10 is the tenth camera, not the first.
    assert train == [
        ("0002_c10s2_000001_01.jpg", 2, 9),
        ("0002_c1s1_000451_03.jpg", 2, 0),
        ("0007_c3.jpg", 7, 2),
    ]
    assert [(record.pid, record.camid) for record in dataset.query] == [(11, 1)]
    # The distractor stays, the junk does not.
    assert [record.pid for record in dataset.gallery] == [0, 11]
    assert dataset.vocabulary is None
    assert not dataset.synthetic


@pytest.mark.parametrize(
    "below", ["Market-1501-v15.09.15", "market1501", "market1501/Market-1501-v15.09.15"]
)
def test_the_tree_may_lie_in_its_usual_subfolders(tmp_path: Path, below: str) -> None:
    tree = make_tree(tmp_path / below)
    assert load_dataset(f"market1501:{tmp_path}").root == tree


def test_labels_come_from_the_file_name_alone(tmp_path: Path) -> None:
    dataset = load_dataset(f"market1501:{make_tree(tmp_path / '0099_c9_run')}")
    assert dataset.train_pids == (2, 7)


def test_an_image_without_a_label_is_named(tmp_path: Path) -> None:
    (make_tree(tmp_path) / "query" / "holiday_0011_c2.jpg").touch()
    with pytest.raises(PivlError, match=r"holiday_0011_c2\.jpg.*pattern"):
        load_dataset(f"market1501:{tmp_path}")


def test_missing_folders_and_images(tmp_path: Path) -> None:
    with pytest.raises(PivlError, match="bounding_box_train, query, bounding_box_test"):
        load_dataset(f"market1501:{tmp_path}")
    tree = make_tree(tmp_path)
    (tree / "query" / NAMES["query"][0]).unlink()
    with pytest.raises(PivlError, match="query holds no images"):
        load_dataset(f"market1501:{tree}")


def test_spec_errors() -> None:
    with pytest.raises(PivlError, match="did you mean 'market1501'"):
        load_dataset("market-1501:/data")
    with pytest.raises(PivlError, match="market1501:/path/to/dataset"):
        load_dataset("market1501")


@pytest.mark.parametrize("subfolder", ["bounding_box_train", "bounding_box_train_parsing_pgt", "."])
def test_maps_are_found_in_every_layout(tmp_path: Path, subfolder: str) -> None:
    tree, maps = make_tree(tmp_path / "tree"), make_maps(tmp_path / "maps", subfolder)
    dataset = load_dataset(f"market1501:{tree}", parsing=maps)
    assert dataset.vocabulary is not None
    assert dataset.vocabulary.name == "lip20"
    found = [record.parsing and record.parsing.resolve() for record in dataset.train]
    place = (maps / subfolder).resolve()
    assert found == [
        place / "0002_c10s2_000001_01.png",
        place / "0002_c1s1_000451_03.png",
        None,
    ]
    assert all(record.parsing is None for record in (*dataset.query, *dataset.gallery))


def test_maps_beside_the_images_are_taken_unasked(tmp_path: Path) -> None:
    make_maps(make_tree(tmp_path) / "parsing")
    dataset = load_dataset(f"market1501:{tmp_path}")
    assert sum(record.parsing is not None for record in dataset.train) == 2


def test_map_folder_errors(tmp_path: Path) -> None:
    spec = f"market1501:{make_tree(tmp_path / 'tree')}"
    with pytest.raises(PivlError, match="does not exist"):
        load_dataset(spec, parsing=tmp_path / "nowhere")
    maps = make_maps(tmp_path / "maps", "test_only")
    with pytest.raises(PivlError, match="belongs to a training image"):
        load_dataset(spec, parsing=maps)
    (maps / "parsing.json").unlink()
    with pytest.raises(PivlError, match=r"parsing\.json"):
        load_dataset(spec, parsing=maps)


def test_people_of_a_rendered_tree(tmp_path: Path) -> None:
    people = {"2": {"hat": "red", "scarf": None}}
    manifest = make_tree(tmp_path) / "synthetic.json"
    manifest.write_text(json.dumps({"people": people}))
    dataset = load_dataset(f"market1501:{tmp_path}")
    assert dataset.people == {2: {"hat": "red", "scarf": None}}
    for broken in ("{", "[]", '{"people": {"two": {}}}', '{"people": 3}'):
        manifest.write_text(broken)
        with pytest.raises(PivlError, match="does not describe people"):
            load_dataset(f"market1501:{tmp_path}")


def test_synthetic_takes_tier_and_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree, asked = make_tree(tmp_path), []

    def cached_dataset(tier: str, seed: int) -> Path:
        asked.append((tier, seed))
        return tree

    cache = ModuleType("pivl_distill.data.synthetic.cache")
    cache.cached_dataset = cached_dataset  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pivl_distill.data.synthetic.cache", cache)
    assert load_dataset("synthetic:default").name == "synthetic:default"
    assert load_dataset("synthetic:hard:7").name == "synthetic:hard:7"
    assert asked == [("default", 0), ("hard", 7)]
    with pytest.raises(PivlError, match="'x'"):
        load_dataset("synthetic:default:x")

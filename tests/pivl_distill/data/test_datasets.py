"""From a spec to a dataset: kinds, options, layouts of part maps, and error messages."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

from pivl_distill.data.datasets import KINDS, load_dataset
from pivl_distill.errors import PivlError

NAMES = {
    "bounding_box_train": ("0002_c1s1_000451_03.jpg", "0002_c10s2_000001_01.jpg", "0007_c3.jpg"),
    "query": ("0011_c2s1_000001_00.jpg",),
    "bounding_box_test": ("-1_c1s1_000401_03.jpg", "0000_c1s1_000151_01.jpg", "0011_c1s1_0.jpg"),
}
MSMT17 = {
    "list_train.txt": "train/0000_000_01_x.jpg",
    "list_val.txt": "train/0000_001_02_x.jpg",
    "list_query.txt": "test/0000_000_01_x.jpg",
    "list_gallery.txt": "test/0000_001_02_x.jpg",
}


@pytest.fixture
def tree(tmp_path: Path, plant) -> Path:
    return plant(
        tmp_path / "tree", (f"{split}/{n}" for split, names in NAMES.items() for n in names)
    )


def make_maps(folder: Path, subfolder: str = "bounding_box_train") -> Path:
    (folder / subfolder).mkdir(parents=True, exist_ok=True)
    (folder / "parsing.json").write_text('{"vocabulary": "lip20"}')
    for name in NAMES["bounding_box_train"][:2]:
        (folder / subfolder / name).with_suffix(".png").touch()
    return folder


@pytest.mark.parametrize("kind", ["market1501", "dukemtmc", "occluded_duke"])
def test_datasets_with_market_layout(tree: Path, kind: str) -> None:
    dataset = load_dataset(f"{kind}:{tree}")
    assert dataset.name == kind
    assert dataset.train_pids == (2, 7)
    assert dataset.vocabulary is None


def test_msmt17_and_its_protocols(tmp_path: Path, plant) -> None:
    plant(tmp_path, MSMT17.values())
    for name, image in MSMT17.items():
        (tmp_path / name).write_text(f"{image.partition('/')[2]} 0\n")
    assert len(load_dataset(f"msmt17:{tmp_path}").train) == 2
    assert len(load_dataset(f"msmt17:{tmp_path}?val=yes").train) == 2
    assert len(load_dataset(f"msmt17:{tmp_path}?val=no").train) == 1
    with pytest.raises(PivlError, match=r"val of msmt17 is yes .* or no, not 'off'"):
        load_dataset(f"msmt17:{tmp_path}?val=off")


def test_pattern_option_may_contain_question_marks(tmp_path: Path, plant) -> None:
    plant(tmp_path, [f"{split}/5/5_c1.jpg" for split in ("train", "query", "gallery")])
    assert not load_dataset(f"folders:{tmp_path}").has_cameras
    dataset = load_dataset(rf"folders:{tmp_path}?pattern=_c(?P<cam>\d+)=?")
    assert dataset.has_cameras
    plant(tmp_path, [f"{split}/5_c1.jpg" for split in ("train", "query", "gallery")])
    dataset = load_dataset(rf"regex:{tmp_path}?pattern=(?P<pid>\d+)_c(?P<cam>\d+)")
    assert [(record.pid, record.camid) for record in dataset.train] == [(5, 0)]
    with pytest.raises(PivlError, match="must contain the named group"):
        load_dataset(f"regex:{tmp_path}")


def test_pattern_option_may_contain_an_ampersand(tmp_path: Path, plant) -> None:
    plant(tmp_path, [f"{split}/5&c1.jpg" for split in ("train", "query", "gallery")])
    dataset = load_dataset(rf"regex:{tmp_path}?pattern=(?P<pid>\d+)%26c(?P<cam>\d+)")
    assert [(record.pid, record.camid) for record in dataset.train] == [(5, 0)]


def test_manifest_by_spec(tmp_path: Path, plant) -> None:
    plant(tmp_path, ["a.jpg"])
    rows = "".join(f"a.jpg,1,{split}\n" for split in ("train", "query", "gallery"))
    (tmp_path / "m.csv").write_text(f"path,pid,split\n{rows}")
    assert load_dataset(f"manifest:{tmp_path / 'm.csv'}").name == "manifest"


def test_spec_errors(tree: Path) -> None:
    with pytest.raises(PivlError, match="did you mean 'market1501'"):
        load_dataset("market-1501:/data")
    with pytest.raises(PivlError, match=f"takes no options.*|dataset like '{tree}'"):
        load_dataset(f"market1501:{tree}?val=no")
    with pytest.raises(PivlError, match="did you mean 'val'"):
        load_dataset(f"msmt17:{tree}?vall=no")
    for text in ("val", "val="):
        with pytest.raises(PivlError, match=r"Option val .* has no value: write \?val="):
            load_dataset(f"msmt17:{tree}?{text}")
    with pytest.raises(PivlError, match="Write the path in full"):
        load_dataset("market1501:~no-such-user-here/data")


@pytest.mark.parametrize("kind", KINDS)
def test_error_for_a_kind_without_path_gives_an_example(kind: str) -> None:
    for spec in (kind, f"{kind}:"):
        with pytest.raises(PivlError) as caught:
            load_dataset(spec)
        assert f"write '{KINDS[kind].example}'" in str(caught.value)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if KINDS[kind].on_disk])
def test_error_names_missing_files(tmp_path: Path, kind: str) -> None:
    with pytest.raises(PivlError, match="nowhere"):
        load_dataset(f"{kind}:{tmp_path / 'nowhere.csv'}")


def test_error_names_an_unreadable_folder(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PivlError, match=r"Cannot list the folder .*_train: Permission denied\."):
        load_dataset(f"market1501:{tree}")


@pytest.mark.parametrize("subfolder", ["bounding_box_train", "bounding_box_train_parsing_pgt", "."])
def test_maps_are_found_in_every_layout(tree: Path, tmp_path: Path, subfolder: str) -> None:
    maps = make_maps(tmp_path / "maps", subfolder)
    dataset = load_dataset(f"market1501:{tree}", parsing=maps)
    assert dataset.vocabulary is not None
    assert dataset.vocabulary.name == "lip20"
    map_paths = [record.parsing and record.parsing.resolve() for record in dataset.train]
    folder = (maps / subfolder).resolve()
    assert map_paths == [
        folder / "0002_c10s2_000001_01.png",
        folder / "0002_c1s1_000451_03.png",
        None,
    ]
    assert all(record.parsing is None for record in (*dataset.query, *dataset.gallery))


def test_images_with_the_same_name_never_share_a_map(tmp_path: Path, plant) -> None:
    names = ("train/1/a.jpg", "train/2/a.jpg", "train/2/b.jpg", "query/3/a.jpg", "gallery/3/b.jpg")
    plant(tmp_path, names)
    maps = plant(tmp_path / "maps", ["a.png", "b.png", "train/2/a.png"])
    (maps / "parsing.json").write_text('{"vocabulary": "lip20"}')
    dataset = load_dataset(f"folders:{tmp_path}", parsing=maps)
    assert [record.parsing for record in dataset.train] == [
        None,
        maps / "train/2/a.png",
        maps / "b.png",
    ]


def test_maps_in_the_dataset_folder_are_used_by_default(tree: Path) -> None:
    make_maps(tree / "parsing")
    dataset = load_dataset(f"market1501:{tree}")
    assert sum(record.parsing is not None for record in dataset.train) == 2


def test_maps_in_a_manifest_precede_the_default_folder(tmp_path: Path, plant) -> None:
    plant(tmp_path, ["a.jpg", "own/a.png", "parsing/a.png", "explicit/a.png"])
    rows = [f"a.jpg,1,{split},own/a.png\n" for split in ("train", "query", "gallery")]
    (tmp_path / "m.csv").write_text("path,pid,split,parsing\n" + "".join(rows))
    for folder in ("own", "parsing", "explicit"):
        (tmp_path / folder / "parsing.json").write_text('{"vocabulary": "lip20"}')
    spec = f"manifest:{tmp_path / 'm.csv'}"
    assert load_dataset(spec).train[0].parsing == tmp_path / "own/a.png"
    explicit = load_dataset(spec, parsing=tmp_path / "explicit")
    assert explicit.train[0].parsing == tmp_path / "explicit/a.png"


def test_map_folder_errors(tree: Path, tmp_path: Path) -> None:
    spec = f"market1501:{tree}"
    with pytest.raises(PivlError, match="does not exist"):
        load_dataset(spec, parsing=tmp_path / "nowhere")
    maps = make_maps(tmp_path / "maps", "test_only")
    with pytest.raises(PivlError, match="belongs to a training image"):
        load_dataset(spec, parsing=maps)
    (maps / "parsing.json").unlink()
    with pytest.raises(PivlError, match=r"parsing\.json"):
        load_dataset(spec, parsing=maps)


def test_synthetic_takes_tier_and_seed(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def cached_dataset(tier: str, seed: int) -> Path:
        calls.append((tier, seed))
        return tree

    cache = ModuleType("pivl_distill.data.synthetic.cache")
    cache.cached_dataset = cached_dataset  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pivl_distill.data.synthetic.cache", cache)
    assert load_dataset("synthetic:default").name == "synthetic:default"
    assert load_dataset("synthetic:hard:7").name == "synthetic:hard:7"
    assert calls == [("default", 0), ("hard", 7)]
    for seed in ("x", "-1", "²", "9" * 5000):
        with pytest.raises(
            PivlError, match=f"Seed '{seed}' .* is not an integer of 1 to 18 digits"
        ):
            load_dataset(f"synthetic:default:{seed}")

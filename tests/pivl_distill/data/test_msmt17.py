"""MSMT17: lists, versions, protocols, and overlapping training and test pids."""

from __future__ import annotations

from pathlib import Path

import pytest

from pivl_distill.data.msmt17 import FOLDERS, SUBFOLDERS, TEST_PID_OFFSET, load_msmt17
from pivl_distill.errors import PivlError

LISTS = {
    "list_train.txt": ["0001/0001_000_02_0303morning_0008_0.jpg 1", "0000/0000_000_01_a_1.jpg 0"],
    "list_val.txt": ["0000/0000_009_15_0303noon_0015_0.jpg 0"],
    "list_query.txt": ["0000/0000_000_10_0302afternoon_0001_1.jpg 0"],
    "list_gallery.txt": ["0000/0000_001_04_0302night_0001_1.jpg 0", "0001/0001_002_4_x.jpg 1"],
}


def plant_msmt17(
    root: Path, plant, lists: dict[str, list[str]] = LISTS, folders=FOLDERS[0]
) -> Path:
    for name, lines in lists.items():
        folder = folders[name in ("list_query.txt", "list_gallery.txt")]
        plant(root / folder, (line.split()[0] for line in lines))
        (root / name).write_text("".join(f"{line}\n" for line in lines))
    return root


def test_lists_give_identities_and_cameras(tmp_path: Path, plant) -> None:
    root = plant_msmt17(tmp_path, plant)
    dataset = load_msmt17(root)
    # In the order of the lists; cameras count from 0 and may have two digits.
    assert [(record.pid, record.camid) for record in dataset.train] == [(1, 1), (0, 0), (0, 14)]
    assert dataset.train[0].path == root / "train/0001/0001_000_02_0303morning_0008_0.jpg"
    assert [record.camid for record in (*dataset.query, *dataset.gallery)] == [9, 3, 3]
    assert dataset.query[0].path.parts[-3:-1] == ("test", "0000")


def test_test_pids_are_offset_from_training_pids(tmp_path: Path, plant) -> None:
    dataset = load_msmt17(plant_msmt17(tmp_path, plant))
    assert [record.pid for record in dataset.query] == [TEST_PID_OFFSET]
    assert [record.pid for record in dataset.gallery] == [TEST_PID_OFFSET, TEST_PID_OFFSET + 1]
    test_pids = {record.pid for record in (*dataset.query, *dataset.gallery)}
    assert not test_pids & set(dataset.train_pids)


def test_validation_list_is_optional(tmp_path: Path, plant) -> None:
    root = plant_msmt17(tmp_path, plant)
    with_val, without_val = load_msmt17(root), load_msmt17(root, val=False)
    assert (with_val.name, len(with_val.train)) == ("msmt17", 3)
    assert (without_val.name, len(without_val.train)) == ("msmt17-no-val", 2)
    assert (with_val.query, with_val.gallery) == (without_val.query, without_val.gallery)
    (root / "list_val.txt").unlink()
    assert load_msmt17(root, val=False) == without_val
    with pytest.raises(PivlError, match=r"list_val\.txt"):
        load_msmt17(root)


@pytest.mark.parametrize("folders", FOLDERS)
@pytest.mark.parametrize("place", SUBFOLDERS)
def test_both_versions_are_found_in_usual_subfolders(
    tmp_path: Path, plant, place: str, folders: tuple[str, str]
) -> None:
    plant_msmt17(tmp_path / place, plant, folders=folders)
    dataset = load_msmt17(tmp_path)
    assert dataset.root.resolve() == (tmp_path / place).resolve()
    assert dataset.train[0].path.is_file()
    assert dataset.train[0].path.parts[-3] == folders[0]


def test_counts_equal_the_lists(tmp_path: Path, plant) -> None:
    """Use a thousandth of the published images."""

    def lines(images: int, people: int, cameras: int, mark: str) -> list[str]:
        pids = [n % people for n in range(images)]
        names = [f"{pid:04}_{n:03}_{n % cameras + 1:02}_{mark}.jpg" for n, pid in enumerate(pids)]
        return [f"{pid:04}/{name} {pid}" for pid, name in zip(pids, names, strict=True)]

    lists = {
        "list_train.txt": lines(30, 10, 15, "train"),
        "list_val.txt": lines(2, 2, 2, "val"),
        "list_query.txt": lines(11, 3, 11, "query"),
        "list_gallery.txt": lines(82, 3, 15, "gallery"),
    }
    root = plant_msmt17(tmp_path, plant, lists)
    expected = {"train": (32, 10, 15), "query": (11, 3, 11), "gallery": (82, 3, 15)}
    assert load_msmt17(root).summary() == expected
    assert load_msmt17(root, val=False).summary() == {**expected, "train": (30, 10, 15)}


@pytest.mark.parametrize("name", LISTS)
def test_list_with_missing_files_is_an_error(tmp_path: Path, plant, name: str) -> None:
    root = plant_msmt17(tmp_path, plant)
    with (root / name).open("a") as file:
        file.write("0001/0001_007_03_gone.jpg 1\n0001/0001_008_03_gone.jpg 1\n")
    with pytest.raises(PivlError, match=rf"{name} names 2 files .*0001_007_03_gone\.jpg"):
        load_msmt17(root)


@pytest.mark.parametrize("name", LISTS)
def test_missing_or_empty_list_is_an_error(tmp_path: Path, plant, name: str) -> None:
    root = plant_msmt17(tmp_path, plant)
    (root / name).write_text("\n")
    with pytest.raises(PivlError, match=f"{name} names no images"):
        load_msmt17(root)
    (root / name).unlink()
    with pytest.raises(PivlError, match=f"no file .*{name}"):
        load_msmt17(root)


@pytest.mark.parametrize(
    "line", ["0001/0001_000_02_x.jpg", "0001/holiday.jpg 1", "0001/0001_000_02_x.jpg one", "0001 1"]
)
def test_error_quotes_a_malformed_line(tmp_path: Path, plant, line: str) -> None:
    root = plant_msmt17(tmp_path, plant)
    with (root / "list_train.txt").open("a") as file:
        file.write(line)
    with pytest.raises(PivlError, match=r"Line 3 of .*list_train\.txt is '"):
        load_msmt17(root)


def test_error_for_a_wrong_folder(tmp_path: Path, plant) -> None:
    root = plant_msmt17(tmp_path, plant)
    with pytest.raises(PivlError, match="one split of a MSMT17 dataset"):
        load_msmt17(root / "test")
    with pytest.raises(PivlError, match="train, test or mask_train_v2, mask_test_v2"):
        load_msmt17(root / "train" / "0000")


@pytest.mark.parametrize("image", ["../../0001_000_02_x.jpg", "/0001_000_02_x.jpg"])
def test_lists_lead_into_the_folder_only(tmp_path: Path, plant, image: str) -> None:
    root = plant_msmt17(tmp_path, plant)
    (root / "list_val.txt").write_text(f"{image} 0\n")
    with pytest.raises(PivlError, match=r"Line 1 of .*list_val\.txt: .* leads out of its folder"):
        load_msmt17(root)

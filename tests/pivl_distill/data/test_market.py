"""Market-1501 and datasets with its layout, with every irregularity of the real ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pivl_distill.data.datasets import load_dataset
from pivl_distill.data.market import MARKET_LAYOUTS, load_market
from pivl_distill.errors import PivlError

NAMES = (
    "bounding_box_train/0002_c1s1_000451_03.jpg",
    "bounding_box_train/0002_c10s2_000001_01.jpeg",
    "bounding_box_train/0007_c3.JPG",
    "bounding_box_train/Thumbs.db",
    "bounding_box_train/._0007_c3.jpg",
    "query/0011_c2s1_000001_00.jpg",
    "query/Thumbs.db",
    "bounding_box_test/-1_c1s1_000401_03.jpg",
    "bounding_box_test/0000_c1s1_000151_01.jpg",
    "bounding_box_test/0011_c1s1_0.jpg",
    "bounding_box_test/Thumbs.db",
)


def test_junk_is_dropped_and_distractors_stay_in_the_gallery(
    tmp_path: Path, plant, reversed_listing: None
) -> None:
    dataset = load_market("market1501", plant(tmp_path, NAMES))
    train = [(record.path.name, record.pid, record.camid) for record in dataset.train]
    # By name whatever the file system says; c10 is the tenth camera, not the first.
    assert train == [
        ("0002_c10s2_000001_01.jpeg", 2, 9),
        ("0002_c1s1_000451_03.jpg", 2, 0),
        ("0007_c3.JPG", 7, 2),
    ]
    assert [(record.pid, record.camid) for record in dataset.query] == [(11, 1)]
    # The distractor stays, the junk does not.
    assert [record.pid for record in dataset.gallery] == [0, 11]
    assert dataset.train_pids == (2, 7)
    assert dataset.has_cameras
    assert not dataset.synthetic


@pytest.mark.parametrize(
    ("kind", "place"),
    [(kind, place) for kind, form in MARKET_LAYOUTS.items() for place in form.subfolders],
)
def test_dataset_is_found_in_usual_subfolders(tmp_path: Path, plant, kind: str, place: str) -> None:
    plant(tmp_path / place, NAMES)
    dataset = load_market(kind, tmp_path)
    assert dataset.name == kind
    assert dataset.root.resolve() == (tmp_path / place).resolve()


def test_duke_and_occluded_duke_in_one_folder_are_distinguished(tmp_path: Path, plant) -> None:
    folder = tmp_path / "dukemtmcreid"
    plant(folder / "DukeMTMC-reID", [name.replace("0011", "0012") for name in NAMES])
    plant(folder / "Occluded_Duke", NAMES)
    assert load_market("dukemtmc", tmp_path).query[0].pid == 12
    assert load_market("occluded_duke", tmp_path).query[0].pid == 11
    assert load_market("dukemtmc", folder).root != load_market("occluded_duke", folder).root


# Images, identities and cameras of each split; a hundredth of the published images.
SCALED = {
    "market1501": {"train": (129, 7, 6), "query": (33, 7, 6), "gallery": (159, 8, 6)},
    "dukemtmc": {"train": (165, 7, 8), "query": (22, 7, 8), "gallery": (176, 11, 8)},
    "occluded_duke": {"train": (156, 7, 8), "query": (22, 5, 8), "gallery": (176, 11, 8)},
}


@pytest.mark.parametrize("kind", SCALED)
def test_counts_equal_the_files(tmp_path: Path, plant, kind: str) -> None:
    folders = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}
    for split, (images, people, cameras) in SCALED[kind].items():
        first = 100 if split == "train" else 0  # the gallery's first identity is the distractor
        plant(
            tmp_path / folders[split],
            (f"{first + n % people:04}_c{n % cameras + 1}_f{n:07}.jpg" for n in range(images)),
        )
    plant(tmp_path, [f"bounding_box_test/-1_c1_f{n}.jpg" for n in range(38)])
    assert load_market(kind, tmp_path).summary() == SCALED[kind]


def test_labels_come_from_the_file_name_only(tmp_path: Path, plant) -> None:
    dataset = load_market("market1501", plant(tmp_path / "0099_c9_run", NAMES))
    assert dataset.train_pids == (2, 7)


@pytest.mark.parametrize("name", ["holiday_0011_c2.jpg", "0011_c0s1.jpg", "0011.jpg"])
def test_error_names_an_image_without_a_label(tmp_path: Path, plant, name: str) -> None:
    plant(tmp_path, [*NAMES, f"query/{name}"])
    with pytest.raises(PivlError, match=rf"query/{name}.*pattern.*regex:") as caught:
        load_dataset(f"market1501:{tmp_path}")
    assert caught.value.exit_code == 2


def test_errors_for_missing_folders_and_images(tmp_path: Path, plant) -> None:
    with pytest.raises(PivlError, match="bounding_box_train, query, bounding_box_test"):
        load_market("market1501", tmp_path)
    plant(tmp_path, NAMES)
    with pytest.raises(PivlError, match="name its parent folder"):
        load_market("market1501", tmp_path / "bounding_box_train")
    for name in NAMES:
        if name.startswith("bounding_box_train"):
            (tmp_path / name).unlink()
    with pytest.raises(PivlError, match="bounding_box_train contains no images"):
        load_market("market1501", tmp_path)


def test_training_split_with_only_junk_is_an_error(tmp_path: Path, plant) -> None:
    junk = "bounding_box_train/-1_c1.jpg"
    plant(tmp_path, [junk, *(name for name in NAMES if "train" not in name)])
    with pytest.raises(PivlError, match="pid -1 is not counted"):
        load_market("market1501", tmp_path)


def test_test_splits_may_be_empty_or_missing(tmp_path: Path, plant) -> None:
    plant(tmp_path, [name for name in NAMES if "query" not in name])
    for _ in range(2):
        dataset = load_market("market1501", tmp_path)
        assert (len(dataset.query), bool(dataset.train), bool(dataset.gallery)) == (0, True, True)
        (tmp_path / "query").mkdir(exist_ok=True)


@pytest.mark.parametrize(
    ("name", "what"), [(f"{10**18}_c1s1.jpg", "identity"), (f"0002_c{10**18}s1.jpg", "camera")]
)
def test_numbers_longer_than_64_bits_are_refused(tmp_path: Path, plant, name, what) -> None:
    plant(tmp_path, [*NAMES, f"query/{name}"])
    with pytest.raises(PivlError, match=f"{name} has the {what} '10+', which is not an integer"):
        load_market("market1501", tmp_path)


def test_synthetic_dataset_describes_its_people(tmp_path: Path, plant) -> None:
    people = {"2": {"hat": "red", "scarf": None}}
    manifest = plant(tmp_path, NAMES) / "synthetic.json"
    manifest.write_text(json.dumps({"people": people}))
    dataset = load_market("market1501", tmp_path)
    assert dataset.people == {2: {"hat": "red", "scarf": None}}
    assert dataset.synthetic
    for broken in ("{", "[]", '{"people": {"two": {}}}', '{"people": 3}'):
        manifest.write_text(broken)
        with pytest.raises(PivlError, match="has no valid description of people"):
            load_market("market1501", tmp_path)

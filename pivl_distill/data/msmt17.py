"""MSMT17 (Wei et al., CVPR 2018), versions 1 and 2, read from its list files.

By default, training uses the training and validation lists together (32,621 images), as in
CLIP-ReID; Torchreid and FastReID leave validation out (30,248). Pids of the training and test lists
both start at 0 but are different people, so `TEST_PID_OFFSET` is added to test pids. Version 2 has
blurred faces and other folder names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from pivl_distill.data.listing import (
    find_dataset_root,
    parse_integer,
    parse_label,
    read_text,
    require_files,
)
from pivl_distill.data.records import Record, ReIDDataset
from pivl_distill.data.searched import BY_PROTOCOL, LeftOut, Searched, first_folder
from pivl_distill.errors import PivlError
from pivl_distill.storage.paths import check_relative, shown

TEST_PID_OFFSET = 10_000
SUBFOLDERS = (
    ".", "MSMT17", "MSMT17_V1", "MSMT17_V2", "msmt17", "msmt17/MSMT17_V1", "msmt17/MSMT17_V2",
)  # fmt: skip
FOLDERS = [("train", "test"), ("mask_train_v2", "mask_test_v2")]
LISTS = ("list_train.txt", "list_val.txt", "list_query.txt", "list_gallery.txt")
NAME = re.compile(r"^\d+_\d+_0*([1-9]\d*)_")


def load_msmt17(root: Path, *, val: bool = True) -> ReIDDataset:
    """Load the dataset at `root` or a usual subfolder; `val` adds validation images to training."""
    root, (train_folder, test_folder) = find_dataset_root(root, "MSMT17", FOLDERS, SUBFOLDERS)
    train = _read_list(root, "list_train.txt", train_folder)
    if val:
        train += _read_list(root, "list_val.txt", train_folder)
    query, gallery = (
        _read_list(root, name, test_folder, TEST_PID_OFFSET)
        for name in ("list_query.txt", "list_gallery.txt")
    )
    left_out = () if val else tuple(_val_images(root, train_folder))
    searched = Searched(
        folders=(root / train_folder, root / test_folder),
        root=root,
        lists=tuple(root / name for name in LISTS),
        left_out=left_out,
        person=first_folder,
    )
    name = "msmt17" if val else "msmt17-no-val"
    return ReIDDataset(name, root, train, query, gallery, searched=searched)


def _val_images(root: Path, folder: str) -> Iterator[LeftOut]:
    """Yield the validation images, if there is a list of them."""
    source = root / "list_val.txt"
    if source.is_file():
        for record in _read_list(root, source.name, folder):
            yield LeftOut(record.path, BY_PROTOCOL)


def _read_list(root: Path, name: str, folder: str, offset: int = 0) -> tuple[Record, ...]:
    """Read the images of one list, in its order."""
    source = root / name
    records = []
    for number, line in enumerate(read_text(source).splitlines(), start=1):
        if not line.strip():
            continue
        image, _, label = line.strip().rpartition(" ")
        match = NAME.match(image.rpartition("/")[2])
        pid = parse_integer(label)
        if match is None or pid is None:
            raise PivlError(
                f"Line {number} of {source} is {shown(line)}, not an image and its identity such "
                "as '0000/0000_000_01_0303morning_0015_0.jpg 0'. Use the published list."
            )
        camera = parse_label(match[1], "camera", f"Line {number} of {source}")
        try:
            check_relative(image)
        except ValueError as error:
            raise PivlError(f"Line {number} of {source}: {error}.") from error
        records.append(Record(root / folder / image, pid + offset, camera - 1))
    if not records:
        raise PivlError(f"{source} names no images. Use the published list.")
    require_files((record.path for record in records), source)
    return tuple(records)

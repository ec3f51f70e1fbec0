"""Datasets by name: `kind:argument` → records, labels and part maps.

Market-1501 (Zheng et al., ICCV 2015) is read as its authors publish it and with the field's rules:
junk (pid −1) is dropped, distractors (pid 0) stay in the gallery, cameras count from 0. Only the
training images need part maps. Nothing is downloaded: the owners of a dataset hand it out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from pivl_distill.data.parsing import find_maps, folder_vocabulary
from pivl_distill.data.records import Record, ReIDDataset
from pivl_distill.errors import PivlError, unknown_name

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp")

# Held against the file name only: a folder called `run1_c3` must not pass for a label.
MARKET_NAME = re.compile(r"^(-?\d+)_c(\d+)")
MARKET_SPLITS = ("bounding_box_train", "query", "bounding_box_test")
MARKET_FOLDERS = (".", "Market-1501-v15.09.15", "market1501", "market1501/Market-1501-v15.09.15")
JUNK_PID = -1


def load_dataset(spec: str, parsing: Path | None = None) -> ReIDDataset:
    """The dataset that `spec` names, with the part maps in the folder `parsing`.

    `market1501:/path/to/dataset` is a copy on disk; `synthetic:default` (or `synthetic:default:7`
    for another seed) is rendered on first use. Without `parsing`, `<root>/parsing` is taken if it
    exists. Raises PivlError if the kind is unknown or files are missing or misnamed.
    """
    kind, _, argument = spec.partition(":")
    if kind not in LOADERS:
        raise unknown_name("dataset kind", kind, LOADERS)
    if not argument:
        raise PivlError(f"Dataset '{spec}' says what but not which: write '{EXAMPLES[kind]}'.")
    dataset = replace(LOADERS[kind](argument), name=spec if kind == "synthetic" else kind)
    folder = parsing or dataset.root / "parsing"
    if parsing is None and not folder.is_dir():
        return dataset
    return with_maps(dataset, folder)


def load_market1501(root: Path) -> ReIDDataset:
    """A Market-1501 tree at `root` or one of its usual subfolders, without part maps.

    `synthetic.json` at the top of a rendered tree describes its people.
    """
    root = _market_root(root)
    train, query, gallery = (_read_market_folder(root / split) for split in MARKET_SPLITS)
    people = _read_people(root / "synthetic.json")
    return ReIDDataset("market1501", root, train, query, gallery, people=people)


def load_synthetic(argument: str) -> ReIDDataset:
    """The rendered dataset `tier` or `tier:seed`, from the cache or made now."""
    from pivl_distill.data.synthetic.cache import cached_dataset

    tier, _, seed = argument.partition(":")
    if seed and not seed.isdecimal():
        raise PivlError(f"Seed '{seed}' of 'synthetic:{argument}' is not a whole number.")
    return load_market1501(cached_dataset(tier, int(seed or 0)))


LOADERS: dict[str, Callable[[str], ReIDDataset]] = {
    "market1501": lambda argument: load_market1501(Path(argument).expanduser()),
    "synthetic": load_synthetic,
}
EXAMPLES = {"market1501": "market1501:/path/to/dataset", "synthetic": "synthetic:default"}


def with_maps(dataset: ReIDDataset, folder: Path) -> ReIDDataset:
    """The dataset with each training image's part map, where `folder` holds one."""
    if not folder.is_dir():
        raise PivlError(f"The folder of parsing maps {folder} does not exist.")
    vocabulary = folder_vocabulary(folder)
    splits = sorted({record.path.parent.name for record in dataset.train})
    maps = {split: find_maps(folder, split) for split in splits}
    train = tuple(
        replace(record, parsing=maps[record.path.parent.name].get(record.path.stem))
        for record in dataset.train
    )
    if all(record.parsing is None for record in train):
        raise PivlError(
            f"No parsing map in {folder} belongs to a training image. Maps carry the image's name "
            f"and the suffix .png; looked in {folder / splits[0]}, {splits[0]}_parsing_pgt and "
            f"{folder} itself, say for {dataset.train[0].path.stem}.png."
        )
    return replace(dataset, train=train, vocabulary=vocabulary)


def _market_root(root: Path) -> Path:
    for folder in MARKET_FOLDERS:
        if all((root / folder / split).is_dir() for split in MARKET_SPLITS):
            return root / folder
    raise PivlError(
        f"No Market-1501 dataset at {root}: looked for the folders {', '.join(MARKET_SPLITS)} "
        f"there and in {', '.join(MARKET_FOLDERS[1:])}."
    )


def _read_market_folder(folder: Path) -> tuple[Record, ...]:
    records = []
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in IMAGE_SUFFIXES:
            continue  # the published archive carries Thumbs.db
        match = MARKET_NAME.match(path.name)
        if match is None:
            raise PivlError(
                f"{path} does not say who is on it and which camera saw it: names look like "
                f"0002_c1s1_000451_03.jpg (pattern {MARKET_NAME.pattern}). Rename or remove it."
            )
        pid, camera = int(match[1]), int(match[2])
        if pid != JUNK_PID:
            records.append(Record(path, pid, camera - 1))
    if not records:
        raise PivlError(f"{folder} holds no images ({', '.join(IMAGE_SUFFIXES)}).")
    return tuple(records)


def _read_people(path: Path) -> Mapping[int, Mapping[str, str | None]] | None:
    if not path.is_file():
        return None
    try:
        people = json.loads(path.read_text(encoding="utf-8"))["people"]
        return {int(pid): attributes for pid, attributes in people.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise PivlError(f"{path} does not describe people: remove or render it again.") from error

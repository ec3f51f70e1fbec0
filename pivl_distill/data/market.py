"""Market-1501 and datasets with the same layout: DukeMTMC-reID and Occluded-Duke.

Market-1501 (Zheng et al., ICCV 2015), DukeMTMC-reID (Zheng et al., ICCV 2017) and Occluded-Duke
(Miao et al., ICCV 2019) are read as published, by the usual protocol: junk (pid −1) is dropped,
distractors (pid 0) stay in the gallery, camera ids start at 0.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pivl_distill.data.listing import (
    JUNK_PID,
    find_dataset_root,
    list_images,
    parse_label,
    require_images,
)
from pivl_distill.data.records import Record, ReIDDataset
from pivl_distill.data.searched import BY_PROTOCOL, LeftOut, Searched, read_names
from pivl_distill.errors import PivlError
from pivl_distill.storage.filenames import SYNTHETIC_FILE
from pivl_distill.storage.readers import read_json

# Matched against the file name only: a folder called `run1_c3` must not be read as a label.
# Published camera numbers start at 1.
MARKET_NAME = re.compile(r"^(-?\d+)_c0*([1-9]\d*)")
MARKET_SPLITS = ("bounding_box_train", "query", "bounding_box_test")


@dataclass(frozen=True)
class MarketLayout:
    """A dataset with Market-1501's layout: its title, and its usual subfolders of a data folder."""

    title: str
    subfolders: tuple[str, ...]


MARKET_LAYOUTS = {
    "market1501": MarketLayout(
        "Market-1501",
        (
            ".",
            "Market-1501-v15.09.15",
            "Market-1501",
            "market1501",
            "market1501/Market-1501-v15.09.15",
        ),
    ),
    "dukemtmc": MarketLayout(
        "DukeMTMC-reID",
        (
            ".",
            "DukeMTMC-reID",
            "dukemtmcreid/DukeMTMC-reID",
            "dukemtmcreid",
            "dukemtmc-reid/DukeMTMC-reID",
            "dukemtmc-reid",
        ),
    ),
    "occluded_duke": MarketLayout(
        "Occluded-Duke",
        (
            ".",
            "Occluded_Duke",
            "Occluded-Duke",
            "Occluded-DukeMTMC",
            "dukemtmcreid/Occluded_Duke",
        ),
    ),
}


def load_market(kind: str, root: Path) -> ReIDDataset:
    """Load the dataset `kind` at `root` or in a usual subfolder, without part maps.

    `synthetic.json` in the root of a synthetic dataset describes its people.
    """
    layout = MARKET_LAYOUTS[kind]
    root, _ = find_dataset_root(root, layout.title, [MARKET_SPLITS], layout.subfolders)
    folders = tuple(root / split for split in MARKET_SPLITS)
    (train, query, gallery), left_out = zip(*map(_read_folder, folders), strict=True)
    require_images(len(train), folders[0])
    searched = Searched(folders, root, left_out=sum(left_out, ()), person=_person)
    people = _read_people(root)
    return ReIDDataset(kind, root, train, query, gallery, people=people, searched=searched)


def _read_folder(folder: Path) -> tuple[tuple[Record, ...], tuple[LeftOut, ...]]:
    """Return the records of one split, and the images that are junk or misnamed."""
    found, misnamed = read_names(list_images(folder), _record)
    records = tuple(record for record in found if record.pid != JUNK_PID)
    junk = (LeftOut(record.path, BY_PROTOCOL) for record in found if record.pid == JUNK_PID)
    return records, (*junk, *misnamed)


def _record(path: Path) -> Record:
    match = MARKET_NAME.match(path.name)
    if match is None:
        raise PivlError(
            f"The name of {path} has no identity and camera: names look like "
            f"0002_c1s1_000451_03.jpg (pattern {MARKET_NAME.pattern}). Rename or remove it, "
            "or give your own pattern with regex:FOLDER?pattern=..."
        )
    camera = parse_label(match[2], "camera", path)
    return Record(path, parse_label(match[1], "identity", path), camera - 1)


def _person(place: str) -> str | None:
    match = MARKET_NAME.match(Path(place).name)
    return None if match is None else match[1]


def _read_people(root: Path) -> Mapping[int, Mapping[str, str | None]] | None:
    path = root / SYNTHETIC_FILE
    if not path.is_file():
        return None
    try:
        people = read_json(path, "a description of people")["people"]
        if not all(isinstance(attributes, dict) for attributes in people.values()):
            raise ValueError("a person has no attributes")
        return {int(pid): attributes for pid, attributes in people.items()}
    except (PivlError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise PivlError(
            f"{path} has no valid description of people: remove it or render the dataset again."
        ) from error

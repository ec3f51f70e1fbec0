"""Anyone's crops: a folder per identity, or file names under a pattern.

None needs cameras. Where they are named, names of any kind do; they are numbered from 0 in order.
Identities are whole numbers, because prompt banks are looked up by them; −1 is junk and dropped.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pivl_distill.data.listing import (
    JUNK_PID,
    find_dataset_root,
    list_images,
    parse_integer,
    require_images,
)
from pivl_distill.data.market import MARKET_SPLITS
from pivl_distill.data.records import Record, ReIDDataset
from pivl_distill.errors import PivlError, unknown_name

SPLITS = ("train", "query", "gallery")


@dataclass(frozen=True)
class CropFile:
    """One crop as its layout describes it; `camera` is a name, or None where none is given."""

    path: Path
    pid: int
    camera: str | None
    parsing: Path | None = None


def load_folders(root: Path, pattern: str | None = None) -> ReIDDataset:
    """`root`/{train,query,gallery}/<pid>/<image>.

    `pattern` finds the camera in the file name, as its group `cam`; without it there are none.
    """
    find_dataset_root(root, "folder-per-identity", [SPLITS])
    camera = None if pattern is None else _compile(pattern, "cam")
    crops = {split: list(_identity_folders(root / split, camera)) for split in SPLITS}
    return assemble("folders", root, crops)


def load_regex(root: Path, pattern: str = "") -> ReIDDataset:
    """A folder of images per split — train, query, gallery or Market-1501's names.

    `pattern` finds the identity in the file name, as its group `pid`, and may find the camera, as
    its group `cam`.
    """
    _, folders = find_dataset_root(root, "folder-per-split", [SPLITS, MARKET_SPLITS])
    compiled = _compile(pattern, "pid", "cam")
    crops = {
        split: [_named_crop(path, compiled) for path in list_images(root / folder)]
        for split, folder in zip(SPLITS, folders, strict=True)
    }
    return assemble("regex", root, crops)


def assemble(
    name: str, root: Path, splits: Mapping[str, Sequence[CropFile]], source: Path | None = None
) -> ReIDDataset:
    """Drop the junk and number the cameras; `source` is what describes the splits, if not `root`.

    Raises PivlError if a split is empty or if only some crops have a camera.
    """
    splits = {
        split: [crop for crop in crops if crop.pid != JUNK_PID] for split, crops in splits.items()
    }
    for split, crops in splits.items():
        require_images(len(crops), f"The split '{split}' of {source or root}")
    camids = _number_cameras([crop for crops in splits.values() for crop in crops])
    records = {
        split: tuple(
            Record(crop.path, crop.pid, camids[crop.camera], crop.parsing) for crop in crops
        )
        for split, crops in splits.items()
    }
    return ReIDDataset(name, root, records["train"], records["query"], records["gallery"])


def _number_cameras(crops: Sequence[CropFile]) -> dict[str | None, int | None]:
    """Camera → camid; None → None if no crop has a camera."""
    seen = {crop.camera: crop for crop in crops}
    if None not in seen:
        names = sorted((camera for camera in seen if camera is not None), key=_by_number)
        return {camera: number for number, camera in enumerate(names)}
    if len(seen) > 1:
        raise PivlError(
            f"{seen[None].path} has no camera while others have one. Name the camera of every crop "
            "or of none."
        )
    return {None: None}


def _by_number(camera: str) -> tuple[bool, int, str]:
    """Numbers first and in their order, then names."""
    number = parse_integer(camera)
    return number is None, number or 0, camera


def camera_name(text: str) -> str | None:
    """A camera's name: 01 is 1, and nothing is none."""
    number = parse_integer(text)
    return (text or None) if number is None else str(number)


def _identity_folders(split: Path, camera: re.Pattern[str] | None) -> Iterator[CropFile]:
    if loose := list_images(split):
        raise PivlError(
            f"{loose[0]} lies in no identity's folder: {split} holds one folder per identity, "
            "named by its number."
        )
    folders = (path for path in split.iterdir() if path.is_dir() and path.name[0] != ".")
    for folder in sorted(folders, key=lambda path: path.name):
        pid = parse_integer(folder.name)
        if pid is None:
            raise PivlError(
                f"{folder} is not named by a number, as an identity's folder is: rename it, say "
                f"to {split / '0001'}."
            )
        for path in list_images(folder):
            found = None if camera is None else _search(path, camera)["cam"]
            yield CropFile(path, pid, None if found is None else camera_name(found))


def _compile(pattern: str, required: str, *optional: str) -> re.Pattern[str]:
    """The pattern, with the named group `required`; PivlError if it has others than these."""
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise PivlError(f"The pattern '{pattern}' is no regular expression: {error}.") from error
    for name in compiled.groupindex:
        if name not in (required, *optional):
            known = (required, *optional)
            raise unknown_name(f"group in the pattern '{pattern}':", name, known)
    if required not in compiled.groupindex:
        raise PivlError(f"The pattern '{pattern}' must hold the named group (?P<{required}>...).")
    return compiled


def _search(path: Path, pattern: re.Pattern[str]) -> dict[str, str]:
    """The pattern's groups in a file's name; PivlError unless each of them is found."""
    match = pattern.search(path.name)
    if match is None or None in match.groupdict().values():
        raise PivlError(
            f"{path} does not fit the pattern '{pattern.pattern}'. Patterns are searched in the "
            "file name alone; mend the pattern, or rename or remove the file."
        )
    return match.groupdict()


def _named_crop(path: Path, pattern: re.Pattern[str]) -> CropFile:
    found = _search(path, pattern)
    pid = parse_integer(found["pid"])
    if pid is None:
        raise PivlError(
            f"The pattern '{pattern.pattern}' finds the identity '{found['pid']}' in {path}; "
            "identities are whole numbers."
        )
    return CropFile(path, pid, camera_name(found.get("cam", "")))

"""User-defined layouts: one folder per identity, or file names that match a pattern.

Cameras are optional and may have any names; they are numbered from 0 in sorted order. Identities
are integers, because prompt banks are indexed by them; −1 is junk and is dropped.
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
    """One image file with its labels; `camera` is a name, or None if there is none."""

    path: Path
    pid: int
    camera: str | None
    parsing: Path | None = None


def load_folders(root: Path, pattern: str | None = None) -> ReIDDataset:
    """Load `root`/{train,query,gallery}/<pid>/<image>.

    `pattern` captures the camera from the file name in its group `cam`; without it, cameras are
    unknown.
    """
    find_dataset_root(root, "folder-per-identity", [SPLITS])
    camera = None if pattern is None else _compile(pattern, "cam")
    crops = {split: list(_identity_folders(root / split, camera)) for split in SPLITS}
    return assemble("folders", root, crops)


def load_regex(root: Path, pattern: str = "") -> ReIDDataset:
    """Load one folder of images per split: train, query, gallery, or Market-1501's names.

    `pattern` captures the identity from the file name in its group `pid`, and optionally the camera
    in its group `cam`.
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
    """Drop junk and number the cameras; `source` is the file that lists the splits, if any.

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
    """Map camera names to camera ids; None → None if no crop has a camera."""
    examples = {crop.camera: crop for crop in crops}
    if None not in examples:
        names = sorted((name for name in examples if name is not None), key=_by_number)
        return {camera: number for number, camera in enumerate(names)}
    if len(examples) > 1:
        raise PivlError(
            f"{examples[None].path} has no camera while others have one. Give the camera of every "
            "crop or of none."
        )
    return {None: None}


def _by_number(camera: str) -> tuple[bool, int, str]:
    """Sort key: numbers in numerical order, then names."""
    number = parse_integer(camera)
    return number is None, number or 0, camera


def camera_name(text: str) -> str | None:
    """Normalise a camera's name: "01" → "1", "" → None."""
    number = parse_integer(text)
    return (text or None) if number is None else str(number)


def _identity_folders(split: Path, camera: re.Pattern[str] | None) -> Iterator[CropFile]:
    if loose := list_images(split):
        raise PivlError(
            f"{loose[0]} is in no identity's folder: {split} must contain one folder per identity, "
            "named by its number."
        )
    folders = (path for path in split.iterdir() if path.is_dir() and path.name[0] != ".")
    for folder in sorted(folders, key=lambda path: path.name):
        pid = parse_integer(folder.name)
        if pid is None:
            raise PivlError(
                f"{folder} is not an identity number: rename the folder, for example to "
                f"{split / '0001'}."
            )
        for path in list_images(folder):
            found = None if camera is None else _search(path, camera)["cam"]
            yield CropFile(path, pid, None if found is None else camera_name(found))


def _compile(pattern: str, required: str, *optional: str) -> re.Pattern[str]:
    """Compile a pattern; raises PivlError unless it has the group `required` and only these."""
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise PivlError(f"The pattern '{pattern}' is not a regular expression: {error}.") from error
    for name in compiled.groupindex:
        if name not in (required, *optional):
            known = (required, *optional)
            raise unknown_name(f"group in the pattern '{pattern}':", name, known)
    if required not in compiled.groupindex:
        raise PivlError(
            f"The pattern '{pattern}' must contain the named group (?P<{required}>...)."
        )
    return compiled


def _search(path: Path, pattern: re.Pattern[str]) -> dict[str, str]:
    """Return the pattern's groups in a file's name; raises PivlError unless all of them match."""
    match = pattern.search(path.name)
    if match is None or None in match.groupdict().values():
        raise PivlError(
            f"{path} does not match the pattern '{pattern.pattern}'. Patterns are searched in the "
            "file name only; fix the pattern, or rename or remove the file."
        )
    return match.groupdict()


def _named_crop(path: Path, pattern: re.Pattern[str]) -> CropFile:
    found = _search(path, pattern)
    pid = parse_integer(found["pid"])
    if pid is None:
        raise PivlError(
            f"The pattern '{pattern.pattern}' captures the identity '{found['pid']}' in {path}; "
            "identities must be integers."
        )
    return CropFile(path, pid, camera_name(found.get("cam", "")))

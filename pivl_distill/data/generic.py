"""User-defined layouts: one folder per identity, or file names that match a pattern.

Cameras are optional and may have any names; they are numbered from 0 in sorted order. Identities
are integers, because prompt banks are indexed by them; −1 is junk and is dropped.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from pivl_distill.data.listing import (
    JUNK_PID,
    find_dataset_root,
    is_left_by_system,
    list_images,
    parse_integer,
    parse_label,
    require_images,
    scan_folder,
)
from pivl_distill.data.market import MARKET_SPLITS
from pivl_distill.data.records import Record, ReIDDataset
from pivl_distill.data.searched import BY_PROTOCOL, LeftOut, Searched, first_folder, read_names
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
    read = partial(_identity_crop, splits=[root / split for split in SPLITS], camera=camera)
    return _load("folders", root, SPLITS, _identity_images, read, first_folder)


def load_regex(root: Path, pattern: str = "") -> ReIDDataset:
    """Load one folder of images per split: train, query, gallery, or Market-1501's names.

    `pattern` captures the identity from the file name in its group `pid`, and optionally the camera
    in its group `cam`.
    """
    _, folders = find_dataset_root(root, "folder-per-split", [SPLITS, MARKET_SPLITS])
    compiled = _compile(pattern, "pid", "cam")
    read = partial(_named_crop, pattern=compiled)

    def person(place: str) -> str | None:
        match = compiled.search(Path(place).name)
        return None if match is None else match["pid"]

    return _load("regex", root, folders, list_images, read, person)


def _load(
    name: str,
    root: Path,
    folders: Sequence[str],
    list_split: Callable[[Path], Sequence[Path]],
    read: Callable[[Path], CropFile],
    person: Callable[[str], str | None],
) -> ReIDDataset:
    """Load three folders of `root`: list the images of each, and read their labels."""
    crops: dict[str, list[CropFile]] = {}
    left_out: tuple[LeftOut, ...] = ()
    for split, folder in zip(SPLITS, folders, strict=True):
        crops[split], misnamed = read_names(list_split(root / folder), read)
        left_out += misnamed
    places = tuple(root / folder for folder in folders)
    return assemble(name, root, crops, Searched(places, root, left_out=left_out, person=person))


def assemble(
    name: str, root: Path, splits: Mapping[str, Sequence[CropFile]], searched: Searched
) -> ReIDDataset:
    """Drop junk and number the cameras; `searched` is where the crops were found.

    Raises PivlError if the training split is empty or if only some crops have a camera.
    """
    junk = tuple(
        LeftOut(crop.path, BY_PROTOCOL)
        for crops in splits.values()
        for crop in crops
        if crop.pid == JUNK_PID
    )
    splits = {
        split: [crop for crop in crops if crop.pid != JUNK_PID] for split, crops in splits.items()
    }
    source = searched.lists[0] if searched.lists else root
    require_images(len(splits["train"]), f"The split 'train' of {source}")
    camids = _number_cameras([crop for crops in splits.values() for crop in crops])
    records = {
        split: tuple(
            Record(crop.path, crop.pid, camids[crop.camera], crop.parsing) for crop in crops
        )
        for split, crops in splits.items()
    }
    searched = replace(searched, left_out=junk + searched.left_out)
    return ReIDDataset(
        name, root, records["train"], records["query"], records["gallery"], searched=searched
    )


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


def _identity_images(split: Path) -> list[Path]:
    """List the images in the folders of `split`, and those that are in none."""
    if not split.is_dir():
        return []
    images = list_images(split)
    for entry in scan_folder(split):
        if entry.is_dir() and not is_left_by_system(entry.name):
            images += list_images(Path(entry.path))
    return images


def _identity_crop(
    path: Path, splits: Collection[Path], camera: re.Pattern[str] | None
) -> CropFile:
    folder = path.parent
    if folder in splits:
        raise PivlError(
            f"{path} is in no identity's folder: {folder} must contain one folder per identity, "
            "named by its number."
        )
    pid = parse_label(folder.name, "identity", folder)
    found = None if camera is None else _search(path, camera)["cam"]
    return CropFile(path, pid, None if found is None else camera_name(found))


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
    pid = parse_label(found["pid"], "identity", f"By the pattern '{pattern.pattern}', {path}")
    return CropFile(path, pid, camera_name(found.get("cam", "")))

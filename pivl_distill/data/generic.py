"""Anyone's crops: a folder per identity, file names under a pattern, or a manifest.

None needs cameras. Where they are named, names of any kind do; they are numbered from 0 in order.
Identities are whole numbers, because prompt banks are looked up by them; −1 is junk and dropped.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pivl_distill.data.listing import (
    JUNK_PID,
    find_tree,
    image_files,
    read_text,
    require_files,
    require_images,
    whole_number,
)
from pivl_distill.data.market import MARKET_SPLITS
from pivl_distill.data.parsing import MANIFEST, folder_vocabulary
from pivl_distill.data.records import Record, ReIDDataset
from pivl_distill.data.vocabulary import Vocabulary
from pivl_distill.errors import PivlError, unknown_name

SPLITS = ("train", "query", "gallery")
COLUMNS = ("path", "pid", "cam", "split", "parsing")
REQUIRED_COLUMNS = ("path", "pid", "split")


@dataclass(frozen=True)
class Crop:
    """One crop as its layout describes it; `camera` is a name, or None where none is given."""

    path: Path
    pid: int
    camera: str | None
    parsing: Path | None = None


def load_folders(root: Path, pattern: str | None = None) -> ReIDDataset:
    """`root`/{train,query,gallery}/<pid>/<image>.

    `pattern` finds the camera in the file name, as its group `cam`; without it there are none.
    """
    find_tree(root, "folder-per-identity", [SPLITS])
    camera = None if pattern is None else _compile(pattern, ("cam",))
    crops = {split: list(_identity_folders(root / split, camera)) for split in SPLITS}
    return assemble("folders", root, crops)


def load_regex(root: Path, pattern: str = "") -> ReIDDataset:
    """A folder of images per split — train, query, gallery or Market-1501's names.

    `pattern` finds the identity in the file name, as its group `pid`, and may find the camera, as
    its group `cam`.
    """
    _, folders = find_tree(root, "folder-per-split", [SPLITS, MARKET_SPLITS])
    compiled = _compile(pattern, ("pid",), ("cam",))
    crops = {
        split: [_named_crop(path, compiled) for path in image_files(root / folder)]
        for split, folder in zip(SPLITS, folders, strict=True)
    }
    return assemble("regex", root, crops)


def load_manifest(path: Path) -> ReIDDataset:
    """The rows of a CSV (with a header) or JSONL file: path, pid, split and maybe cam and parsing.

    Paths are relative to the manifest. The vocabulary of named part maps is in the nearest
    `parsing.json` beside or above them.
    """
    rows = {".csv": _csv_rows, ".jsonl": _jsonl_rows}.get(path.suffix.lower())
    if rows is None:
        raise PivlError(f"{path} is no manifest: write a table as .csv or JSON lines as .jsonl.")
    crops: dict[str, list[Crop]] = {split: [] for split in SPLITS}
    for line, row in rows(path):
        where = f"Line {line} of {path}"
        split = _cell(row, "split", where)
        if split not in crops:
            raise unknown_name(f"split on line {line} of {path}", split, SPLITS)
        crops[split].append(_manifest_crop(row, path.parent, where))
    everything = [crop for split in crops.values() for crop in split]
    maps = [crop.parsing for crop in everything if crop.parsing is not None]
    require_files([*(crop.path for crop in everything), *maps], path)
    dataset = assemble("manifest", path.parent, crops, path)
    return replace(dataset, vocabulary=_vocabulary(maps)) if maps else dataset


def assemble(
    name: str, root: Path, splits: Mapping[str, Sequence[Crop]], source: Path | None = None
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


def _number_cameras(crops: Sequence[Crop]) -> dict[str | None, int | None]:
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
    number = whole_number(camera)
    return number is None, number or 0, camera


def _camera(text: str) -> str | None:
    """A camera's name: 01 is 1, and nothing is none."""
    number = whole_number(text)
    return (text or None) if number is None else str(number)


def _identity_folders(split: Path, camera: re.Pattern[str] | None) -> Iterator[Crop]:
    if loose := image_files(split):
        raise PivlError(
            f"{loose[0]} lies in no identity's folder: {split} holds one folder per identity, "
            "named by its number."
        )
    folders = (path for path in split.iterdir() if path.is_dir() and path.name[0] != ".")
    for folder in sorted(folders, key=lambda path: path.name):
        pid = whole_number(folder.name)
        if pid is None:
            raise PivlError(
                f"{folder} is not named by a number, as an identity's folder is: rename it, say "
                f"to {split / '0001'}."
            )
        for path in image_files(folder):
            found = None if camera is None else _search(path, camera)["cam"]
            yield Crop(path, pid, None if found is None else _camera(found))


def _compile(
    pattern: str, required: tuple[str, ...], optional: tuple[str, ...] = ()
) -> re.Pattern[str]:
    groups = " and ".join(f"(?P<{name}>...)" for name in required)
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise PivlError(f"The pattern '{pattern}' is no regular expression: {error}.") from error
    for name in compiled.groupindex:
        if name not in required + optional:
            raise unknown_name(f"group in the pattern '{pattern}':", name, required + optional)
    if not set(required) <= compiled.groupindex.keys():
        raise PivlError(f"The pattern '{pattern}' must hold the named group {groups}.")
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


def _named_crop(path: Path, pattern: re.Pattern[str]) -> Crop:
    found = _search(path, pattern)
    pid = whole_number(found["pid"])
    if pid is None:
        raise PivlError(
            f"The pattern '{pattern.pattern}' finds the identity '{found['pid']}' in {path}; "
            "identities are whole numbers."
        )
    return Crop(path, pid, _camera(found.get("cam", "")))


def _csv_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        _check_columns(path, reader.fieldnames or ())
        for row in reader:
            if None in row or None in row.values():
                raise PivlError(
                    f"Line {reader.line_num} of {path} has not as many fields as the header."
                )
            yield reader.line_num, row
    except csv.Error as error:
        raise PivlError(f"Line {reader.line_num} of {path} is no CSV: {error}.") from error


def _jsonl_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise PivlError(f"Line {number} of {path} is no JSON: {error}.") from error
        if not isinstance(row, dict):
            raise PivlError(f"Line {number} of {path} is no JSON object with {COLUMNS}.")
        _check_columns(path, row)
        yield number, row


def _check_columns(path: Path, columns: Iterable[str]) -> None:
    found = list(columns)
    for column in found:
        if column not in COLUMNS:  # a misspelt `cam` must not pass for no cameras
            raise unknown_name(f"column of {path}", column, COLUMNS)
    if missing := [column for column in REQUIRED_COLUMNS if column not in found]:
        raise PivlError(
            f"{path} has no column {', '.join(missing)}; it has {', '.join(found) or 'none'}."
        )


def _manifest_crop(row: Mapping[str, Any], folder: Path, where: str) -> Crop:
    image, pid = _cell(row, "path", where), whole_number(_cell(row, "pid", where))
    if not image:
        raise PivlError(f"{where} names no image in its column path.")
    if pid is None:
        raise PivlError(f"{where} has the pid {row['pid']!r}; identities are whole numbers.")
    parsing = _cell(row, "parsing", where)
    camera = _camera(_cell(row, "cam", where))
    return Crop(folder / image, pid, camera, folder / parsing if parsing else None)


def _cell(row: Mapping[str, Any], column: str, where: str) -> str:
    """The text in a column, empty where there is none; JSON may also hold whole numbers there."""
    value = row.get(column)
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise PivlError(f"{where} has {value!r} for {column}; write text or a whole number.")
    return str(value).strip()


def _vocabulary(maps: Iterable[Path]) -> Vocabulary:
    """The one vocabulary of all maps, from the nearest parsing.json of each map's folder."""
    found = {}
    for folder in sorted({path.parent for path in maps}):
        above = (place for place in (folder, *folder.parents) if (place / MANIFEST).is_file())
        vocabulary = folder_vocabulary(next(above, folder))
        found[vocabulary.name] = vocabulary
    if len(found) > 1:
        raise PivlError(f"The part maps speak different vocabularies: {', '.join(found)}.")
    return found.popitem()[1]

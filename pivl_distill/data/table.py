"""User-defined datasets by manifest: one row per crop, with path, pid, split, cam and parsing."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pivl_distill.data.generic import SPLITS, CropFile, assemble, camera_name
from pivl_distill.data.listing import parse_label, read_text, require_files
from pivl_distill.data.part_maps import folder_vocabulary
from pivl_distill.data.records import ReIDDataset
from pivl_distill.data.searched import Searched
from pivl_distill.data.vocabulary import Vocabulary
from pivl_distill.errors import PivlError, unknown_name
from pivl_distill.storage.filenames import VOCABULARY_FILE
from pivl_distill.storage.paths import check_relative, is_inside, shown
from pivl_distill.storage.readers import parse_json

COLUMNS = ("path", "pid", "cam", "split", "parsing")
REQUIRED_COLUMNS = ("path", "pid", "split")
_ROOT_HINT = (
    "Write paths relative to the manifest, with /; if the images are meant to be elsewhere, name"
    " their folder: manifest:FILE?root=FOLDER."
)


def load_manifest(path: Path, root: str | None = None) -> ReIDDataset:
    """Load a CSV file (with a header) or JSONL file: path, pid, split, optional cam and parsing.

    Paths are relative to the manifest and lead to files in its folder, so that a manifest from
    elsewhere cannot name other files of this machine; with `root`, they are absolute or relative to
    the manifest, and lead to files in the folder `root`. The vocabulary of the part maps is read
    from the nearest `parsing.json` in their folder or a parent folder.
    """
    rows = {".csv": _csv_rows, ".jsonl": _jsonl_rows}.get(path.suffix.lower())
    if rows is None:
        raise PivlError(
            f"{path} is not a manifest: use a .csv table or a .jsonl file of JSON lines."
        )
    places = _Places(path.parent, None if root is None else Path(root).expanduser().resolve())
    crops: dict[str, list[CropFile]] = {split: [] for split in SPLITS}
    for line, row in rows(path):
        where = f"Line {line} of {path}"
        split = _cell(row, "split", where)
        if split not in crops:
            raise unknown_name(f"split on line {line} of {path}", split, SPLITS)
        crops[split].append(_manifest_crop(row, places, where))
    all_crops = [crop for split in crops.values() for crop in split]
    maps = [crop.parsing for crop in all_crops if crop.parsing is not None]
    require_files([*(crop.path for crop in all_crops), *maps], path)
    searched = Searched(_outermost({crop.path.parent for crop in all_crops}), lists=(path,))
    dataset = assemble("manifest", places.root or path.parent, crops, searched)
    return replace(dataset, vocabulary=_vocabulary(maps)) if maps else dataset


def _outermost(folders: Iterable[Path]) -> tuple[Path, ...]:
    """Return the folders that are in no other one, without `..` and repetitions."""
    found: list[Path] = []
    for folder in sorted({Path(os.path.normpath(folder)) for folder in folders}):
        if not found or not folder.is_relative_to(found[-1]):
            found.append(folder)
    return tuple(found)


def _csv_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        _check_columns(path, reader.fieldnames or ())
        for row in reader:
            if None in row or None in row.values():
                raise PivlError(
                    f"Line {reader.line_num} of {path} does not have as many fields as the header."
                )
            yield reader.line_num, row
    except csv.Error as error:
        raise PivlError(f"Line {reader.line_num} of {path} is not CSV: {error}.") from error


def _jsonl_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
        except ValueError as error:
            raise PivlError(f"Line {number} of {path} is not JSON: {error}.") from error
        if not isinstance(row, dict):
            raise PivlError(f"Line {number} of {path} is not a JSON object with {COLUMNS}.")
        _check_columns(path, row)
        yield number, row


def _check_columns(path: Path, columns: Iterable[str]) -> None:
    found = list(columns)
    for column in found:
        if column not in COLUMNS:  # a misspelt `cam` must not be read as no cameras
            raise unknown_name(f"column of {path}", column, COLUMNS)
    if missing := [column for column in REQUIRED_COLUMNS if column not in found]:
        raise PivlError(
            f"{path} has no column {', '.join(missing)}; it has {', '.join(found[:9]) or 'none'}."
        )


class _Places:
    """Where the files of a manifest are: in its folder, or in the folder `root`."""

    def __init__(self, folder: Path, root: Path | None) -> None:
        self.folder, self.root = folder, root
        self._folders: dict[Path, bool] = {}  # whether a folder is inside

    def file(self, name: str, where: str) -> Path:
        """Return the path of a file that a row names; raises PivlError if it is elsewhere."""
        if self.root is None:
            try:
                check_relative(name)
            except ValueError as error:
                raise PivlError(f"{where}: {error}. {_ROOT_HINT}") from error
        path = self.folder / name
        if "\0" in name or not self._is_inside(path):
            place = self.root or self.folder
            raise PivlError(f"{where}: {shown(name)} is not in {place}. {_ROOT_HINT}")
        return path if self.root is None else path.resolve()

    def _is_inside(self, path: Path) -> bool:
        place = self.root or self.folder
        if path.is_symlink():
            return is_inside(path, place)
        if path.parent not in self._folders:
            self._folders[path.parent] = is_inside(path.parent, place)
        return self._folders[path.parent]


def _manifest_crop(row: Mapping[str, Any], places: _Places, where: str) -> CropFile:
    image = _cell(row, "path", where)
    if not image:
        raise PivlError(f"{where} has no image in its column path.")
    pid = parse_label(_cell(row, "pid", where), "identity", where)
    parsing = _cell(row, "parsing", where)
    camera = camera_name(_cell(row, "cam", where))
    part_map = places.file(parsing, where) if parsing else None
    return CropFile(places.file(image, where), pid, camera, part_map)


def _cell(row: Mapping[str, Any], column: str, where: str) -> str:
    """Return the text in a column, "" if there is none; JSON integers become text."""
    value = row.get(column)
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise PivlError(f"{where} has {shown(value)} for {column}; write text or an integer.")
    return str(value).strip()


def _vocabulary(maps: Iterable[Path]) -> Vocabulary:
    """Return the common vocabulary of all maps, from the nearest parsing.json of each folder."""
    vocabularies = {}
    for folder in sorted({path.parent for path in maps}):
        above = (
            place for place in (folder, *folder.parents) if (place / VOCABULARY_FILE).is_file()
        )
        vocabulary = folder_vocabulary(next(above, folder))
        vocabularies[vocabulary.name] = vocabulary
    if len(vocabularies) > 1:
        raise PivlError(f"The part maps have different vocabularies: {', '.join(vocabularies)}.")
    return vocabularies.popitem()[1]

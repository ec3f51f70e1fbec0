"""Report what lies in the folders of a data set and is not used, by reason.

An image may be overlooked because of its place, its name or its format, and nothing in the scores
tells. Every file is therefore either used or counted here. Images that were probably meant to be
used are a problem if they are more than `MAX_UNUSED` of all, or the only ones of a person.
"""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path

from pivl_distill.data.findings import Finding
from pivl_distill.data.listing import (
    IMAGE_SUFFIXES,
    JUNK_PID,
    is_folder,
    is_left_by_system,
    parse_integer,
    scan_folder,
    walk_folder,
)
from pivl_distill.data.records import ReIDDataset
from pivl_distill.data.searched import BY_PROTOCOL, MAX_UNUSED, MISNAMED, Searched
from pivl_distill.distributed import process_group
from pivl_distill.storage.filenames import QA_SHEET_FILE, SYNTHETIC_FILE, VOCABULARY_FILE

logger = logging.getLogger(__name__)

NO_IMAGES = "files with other endings than images"
OTHER_FORMATS = "images of formats that are not read"
DEEPER = "images in deeper folders"
UNLISTED = "images that no list names"
BESIDE = "images and folders beside the splits"
LINKED = "linked folders, which are not searched"
LEFT_BY_SYSTEMS = "hidden files and folders, or left by other systems"
NO_PERSON_LEFT = "people without an image"
OVERLOOKED = (MISNAMED, OTHER_FORMATS, DEEPER, UNLISTED)
"""Reasons for which images were probably meant to be used."""
_FOLDERS = "folders"
REASONS = (*OVERLOOKED, NO_IMAGES, BESIDE, LINKED, LEFT_BY_SYSTEMS, BY_PROTOCOL)

UNREAD_SUFFIXES = (
    ".apng", ".arw", ".avif", ".cr2", ".dng", ".exr", ".gif", ".heic", ".heif", ".j2k", ".jp2",
    ".jxl", ".nef", ".pbm", ".pgm", ".pnm", ".ppm", ".psd", ".raw", ".svg", ".tga",
)  # fmt: skip
"""Endings of images of other formats, in lower case."""


def check_unused(dataset: ReIDDataset) -> list[Finding]:
    """Look at the dataset's folders and report what is not used; opens no file."""
    used = [record.path for records in dataset.splits.values() for record in records]
    maps = [record.parsing for record in dataset.train if record.parsing is not None]
    return find_unused(dataset.searched, used, maps)


def find_unused(
    searched: Searched, used: Iterable[Path], maps: Iterable[Path] = ()
) -> list[Finding]:
    """Report what lies in the folders and is not used.

    Returns a finding for each reason that occurs, and one for people without an image. Names are
    relative to the root, or else to what the folders have in common.
    """
    images = {os.path.normpath(path) for path in used}
    found: defaultdict[str, list[str]] = defaultdict(list)
    for image in searched.left_out:
        found[image.reason].append(os.path.normpath(image.path))
    known = {*images, *(path for paths in found.values() for path in paths)}
    known |= {os.path.normpath(path) for path in (*maps, *searched.lists)}
    for path, reason in _look(searched, known):
        found[reason].append(path)
    overlooked = [path for reason in OVERLOOKED for path in found[reason]]
    too_many = len(overlooked) > MAX_UNUSED * (len(images) + len(overlooked))
    names = _relative_to(searched)
    findings = [
        Finding.of(reason, map(names, found[reason]), problem=too_many and reason in OVERLOOKED)
        for reason in REASONS
        if found[reason]
    ]
    seen = _people(searched, [*overlooked, *found[_FOLDERS], *found[LINKED]])
    present = _people(searched, [*images, *found[BY_PROTOCOL]]) if seen else {}
    lost = (name for person, name in seen.items() if person not in present)
    return [*findings, Finding.of(NO_PERSON_LEFT, lost, problem=True)]


def report_unused(dataset: ReIDDataset, spec: str) -> None:
    """Log what lies in the folders of the data set `spec` and is not used."""
    log_unused(check_unused(dataset), spec)


def log_unused(findings: Iterable[Finding], place: object) -> None:
    """Log what is not used at `place`, on process 0; problems as warnings.

    Images that the protocol leaves out are not mentioned.
    """
    for finding in findings:
        if not finding.found or finding.subject == BY_PROTOCOL or process_group.rank():
            continue
        problem = finding.verdict == "PROBLEM"
        logger.log(
            logging.WARNING if problem else logging.INFO,
            f"{'PROBLEM: n' if problem else 'N'}ot used in {place}: {finding.subject}"
            f" ({len(finding.found):,}, first {finding.found[0]}).",
        )


def _look(searched: Searched, known: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yield everything that is not known, with the reason why it is not used."""
    used_folders = {path.rpartition(os.sep)[0] for path in known}
    for folder in filter(Path.is_dir, searched.folders):
        for entry in walk_folder(folder, enter=lambda entry: not _contains_maps(entry.path)):
            path = os.path.normpath(entry.path)
            if path not in known and path not in used_folders:
                yield path, _reason(entry, UNLISTED if searched.lists else DEEPER)
    if searched.root is None:
        return
    folders = [os.path.normpath(folder) + os.sep for folder in searched.folders]
    for entry in scan_folder(searched.root):
        path = os.path.normpath(entry.path)
        inside = any(folder.startswith(path + os.sep) for folder in folders)
        own = entry.name in (SYNTHETIC_FILE, VOCABULARY_FILE, QA_SHEET_FILE)
        if not (inside or own or path in known or _contains_maps(entry.path)):
            reason = _reason(entry, BESIDE)
            yield path, BESIDE if reason in (_FOLDERS, LINKED, OTHER_FORMATS) else reason


def _reason(entry: os.DirEntry[str], otherwise: str) -> str:
    if is_left_by_system(entry.name):
        return LEFT_BY_SYSTEMS
    if is_folder(entry):
        return LINKED if entry.is_symlink() else _FOLDERS
    ending = Path(entry.name).suffix.lower()
    if ending in UNREAD_SUFFIXES:
        return OTHER_FORMATS
    return otherwise if ending in IMAGE_SUFFIXES else NO_IMAGES


def _contains_maps(folder: str) -> bool:
    return (Path(folder) / VOCABULARY_FILE).is_file()


def _people(searched: Searched, paths: Iterable[str]) -> dict[tuple[str, int | str], str]:
    """Map each person of the paths to a name, by the split's folder and the number; no junk."""
    people: dict[tuple[str, int | str], str] = {}
    folders = [os.path.normpath(folder) + os.sep for folder in searched.folders]
    for path in paths:
        for folder in folders:
            if path.startswith(folder) and (text := searched.person(path[len(folder) :])):
                number = parse_integer(text)
                if number != JUNK_PID:
                    person = (folder, text if number is None else number)
                    people.setdefault(person, f"{Path(folder).name}/{text}")
    return people


def _relative_to(searched: Searched) -> Callable[[str], str]:
    """Return the function that names a file in messages."""
    base = searched.root or (os.path.commonpath(searched.folders) if searched.folders else ".")
    return lambda path: Path(os.path.relpath(path, base)).as_posix()

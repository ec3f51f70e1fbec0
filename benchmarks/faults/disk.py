"""Disks that are full or read-only, from the start or in the middle of each kind of file.

A small disk in memory (tmpfs) is filled up at the moment in which a file is opened for writing, so
that half of the file fits. The command must end with exit code 2 and the name of the file, keep all
that was complete, leave nothing partial, and, repeated when there is room, end with the bytes of an
uninterrupted command.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.faults.comparison import PARTIAL, damaged_files, differences
from benchmarks.faults.injection import (
    BUG,
    PAGE_BYTES,
    Bug,
    FillDisk,
    WhenWritten,
    fill,
    hashes,
    make_read_only,
    make_writable,
)
from benchmarks.faults.outcomes import Outcome, outcome, repeated, told
from benchmarks.faults.processes import Ended
from benchmarks.faults.workloads import (
    EMBED_NPZ,
    EMBED_PARQUET,
    EVALUATE,
    EXPORT,
    PARSE,
    STUDENT,
    SYNTH,
    TEACH,
    Place,
    Workload,
    result_of,
)

DISK_MIB = 192
BALLAST = "ballast"
FULL_MIDDLE, DENIED_MIDDLE = "disk full in the middle", "folder read-only in the middle"
FULL_CACHE, FULL_CRASH = "disk of the cache full", "disk full at an unexpected error"
FULL, READ_ONLY = "full disk", "read-only disk"
CRASH_REPORT = "report of the error"
REASONS = {
    FULL_MIDDLE: "No space left on device",
    FULL: "left",
    READ_ONLY: "Read-only file system",
}
"""What messages must say; a disk that is too small is refused with the room that it has left."""


@dataclass(frozen=True)
class FileKind:
    """A kind of file, and which of its openings for writing is disturbed."""

    name: str
    workload: Workload
    file: str
    """Regular expression."""
    opening: int = 1
    """Each file is opened twice: to claim a temporary name, and to write."""
    room_bytes: int | None = None
    """What still fits; None: half of the file of the uninterrupted command."""


FILES = (
    FileKind("settings of a run", TEACH, r"config\.yaml"),
    FileKind("contract of a run", TEACH, r"contract\.json", room_bytes=0),
    FileKind("first line of metrics", TEACH, r"metrics\.jsonl", room_bytes=0),
    FileKind("progress", TEACH, r"progress\.safetensors", opening=5, room_bytes=2 * PAGE_BYTES),
    FileKind("prompt bank", TEACH, r"prompt_bank\.safetensors"),
    FileKind("teacher", TEACH, r"teacher\.safetensors"),
    FileKind("teacher embeddings", TEACH, r"teacher_embeddings\.safetensors"),
    FileKind("summary of a run", TEACH, r"run\.json"),
    FileKind("student", STUDENT, r"student\.safetensors"),
    FileKind("ONNX, float32", EXPORT, r"model\.onnx"),
    FileKind("golden crop", EXPORT, r"golden\.png"),
    FileKind("manifest", EXPORT, r"manifest\.json", opening=5, room_bytes=PAGE_BYTES),
    FileKind("ONNX, fp16", EXPORT, r"model\.fp16\.onnx"),
    FileKind("ONNX, INT8, in the search", EXPORT, r"model\.int8\.onnx", opening=3),
    FileKind("ONNX, INT8 for TensorRT", EXPORT, r"model\.int8\.trt\.onnx"),
    FileKind("engine", EXPORT, r"model\.fp16\.rtx\.engine"),
    FileKind("description of an engine", EXPORT, r"model\.fp16\.rtx\.engine\.json"),
    FileKind("part map", PARSE, r"\d{4}_.*\.png", opening=41, room_bytes=0),
    FileKind("description of maps", PARSE, r"parsing\.json", opening=3, room_bytes=0),
    FileKind("sheet of maps", PARSE, r"parsing\.png"),
    FileKind("embeddings, rows of .npz", EMBED_NPZ, r"all\.npz", opening=2),
    FileKind("embeddings, .npz", EMBED_NPZ, r"all\.npz", opening=3),
    FileKind("embeddings, .parquet", EMBED_PARQUET, r"all\.parquet", opening=2),
    FileKind("sheet of rankings", EVALUATE, r"sheet\.png", opening=3),
    FileKind("synthetic image", SYNTH, r"\d{4}_.*\.jpg", opening=41, room_bytes=0),
    FileKind("synthetic map", SYNTH, r"\d{4}_.*\.png", opening=41, room_bytes=0),
)
CACHED = (
    FileKind("cached crops", TEACH, r"pixels\.npy", room_bytes=64 << 10),
    FileKind("cached part maps", TEACH, r"pixels\.npy", opening=2, room_bytes=64 << 10),
    FileKind("cached CLIP features", TEACH, r"cells\.npy", room_bytes=64 << 10),
    FileKind("hashes of cached crops", TEACH, r"sha256\.json", room_bytes=0),
)
"""Files of the cache: without them the command goes on, and is not repeated."""


class NoDiskError(Exception):
    """A disk cannot be mounted here."""


@contextmanager
def small_disk(place: Place) -> Iterator[Path]:
    """Mount an empty disk in memory inside the block; its folder is of the same name each time.

    Raises NoDiskError if this user may not.
    """
    folder = place.folder / "disk"
    folder.mkdir(exist_ok=True)
    if shutil.which("mount") is None:
        raise NoDiskError("this system mounts disks in another way")
    mounted = _mount("-t", "tmpfs", "-o", f"size={DISK_MIB}m", "tmpfs", str(folder))
    if mounted.returncode:
        raise NoDiskError(f"only root may mount a disk: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)  # noqa: S607


def _mount(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["mount", *arguments], capture_output=True, text=True)  # noqa: S607


def full_in_the_middle(place: Place, kind: FileKind) -> Outcome:
    """Fill the disk up when a file of a run, of an export or of `--out` is about to be written."""
    reference = place.reference(kind.workload)
    with small_disk(place) as disk:
        folder, cache = disk / "work", place.folder / "cache"
        ended, kept = _run_with_full_disk(place, kind, disk, folder, cache)
        result = result_of(kind.workload, folder)
        problems = told(ended, REASONS[FULL_MIDDLE])
        named = (kind.file.replace(r"\d{4}_.*", ""), kind.workload.result)
        if not any(re.search(name, ended.output) for name in named):
            problems.append("the message does not name the file")
        problems += [f"{name} is damaged or gone" for name in _lost(disk, kept)]
        problems += [f"{name} is partial" for name in damaged_files(reference, result)]
        problems += [f"{name} is left" for name in _partial(disk)]
        problems += repeated(place, kind.workload, folder, cache)
    return outcome(FULL_MIDDLE, kind.name, ended, problems)


def full_cache(place: Place, kind: FileKind) -> Outcome:
    """Fill the disk of the cache up when an entry is about to be written."""
    with small_disk(place) as disk:
        folder = place.folder / "cached"
        shutil.rmtree(folder, ignore_errors=True)
        ended, _ = _run_with_full_disk(place, kind, disk, folder, disk / "cache")
        problems = told(ended, "stay in memory", kind.workload.code)
        problems += [f"{name} is left" for name in _partial(disk)]
        reference = place.reference(kind.workload)
        problems += differences(reference, result_of(kind.workload, folder))
    return outcome(FULL_CACHE, kind.name, ended, problems)


def full_at_crash(place: Place) -> Outcome:
    """Fill the disk up when a report of an unexpected error is about to be written to a run."""
    place.reference(TEACH)
    with small_disk(place) as disk:
        folder = disk / "work"
        fill_up = FillDisk(disk / BALLAST, 0, place.folder / "listing.json")
        fault = Bug("teachers.teacher:save_teacher", WhenWritten(r"crash\.log", fill_up))
        ended = place.run(TEACH, folder, fault, place.folder / "cache")
        (disk / BALLAST).unlink()
        problems = told(ended, "Please report this as a bug and attach", 70)
        log = re.search(r"attach (\S+\.log)", ended.output)
        if log is None or BUG not in Path(log[1]).read_text():
            problems.append("there is no complete report")
        if log is not None:
            Path(log[1]).unlink()
        if (folder / "teach" / "crash.log").exists():
            problems.append("crash.log is left")
        problems += repeated(place, TEACH, folder, place.folder / "cache")
    return outcome(FULL_CRASH, CRASH_REPORT, ended, problems)


def refused(place: Place, workload: Workload, fault: str) -> Outcome:
    """Run a command where nothing can be written: on a full or on a read-only disk."""
    place.reference(workload)
    with small_disk(place) as disk:
        folder = disk / "work"
        folder.mkdir()
        if fault == FULL:
            fill(disk / BALLAST)
        else:
            _mount("-o", "remount,ro", str(disk)).check_returncode()
        before = hashes(disk)
        ended = place.run(workload, folder, cache=place.folder / "cache")
        problems = told(ended, REASONS[fault])
        if hashes(disk) != before or [*folder.iterdir()]:
            problems.append("files were written")
    return outcome(fault, workload.name, ended, problems)


def denied_in_the_middle(place: Place, kind: FileKind) -> Outcome:
    """Make the folder read-only when a file is about to be written."""
    place.reference(kind.workload)
    folder, cache = place.folder / "protected", place.folder / "cache"
    shutil.rmtree(folder, ignore_errors=True)
    fault = WhenWritten(kind.file, make_read_only, kind.opening)
    ended = place.run(kind.workload, folder, fault, cache)
    make_writable(folder)
    problems = told(ended, REASONS[READ_ONLY] if os.geteuid() == 0 else "Permission denied")
    problems += [f"{name} is left" for name in _partial(folder)]
    problems += repeated(place, kind.workload, folder, cache)
    return outcome(DENIED_MIDDLE, kind.name, ended, problems)


def _run_with_full_disk(
    place: Place, kind: FileKind, disk: Path, folder: Path, cache: Path
) -> tuple[Ended, dict[str, str]]:
    """Run the command; return its end, and the files on the disk when it became full."""
    listing = place.folder / "listing.json"
    listing.write_text("{}")
    room = _half(place, kind) if kind.room_bytes is None else kind.room_bytes
    action = FillDisk(disk / BALLAST, room, listing)
    ended = place.run(kind.workload, folder, WhenWritten(kind.file, action, kind.opening), cache)
    (disk / BALLAST).unlink()
    return ended, json.loads(listing.read_text())


def _half(place: Place, kind: FileKind) -> int:
    """Return half of the size of the file that the uninterrupted command wrote."""
    result = result_of(kind.workload, place.done)
    files = [result] if result.is_file() else [path for path in result.rglob("*") if path.is_file()]
    (size,) = [path.stat().st_size for path in files if re.fullmatch(kind.file, path.name)]
    return size // 2


def _lost(disk: Path, kept: dict[str, str]) -> list[str]:
    """Return the files that were complete before the fault, and are not any more."""
    after = hashes(disk)
    complete = [name for name in kept if "/." not in f"/{name}"]  # hidden ones are partial
    return [name for name in complete if after.get(name) != kept[name]]


def _partial(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob(".*") if path.suffix in PARTIAL]


READ_ONLY_FILES = (
    FileKind("progress", TEACH, r"progress\.safetensors", opening=5),
    FileKind("metrics", TEACH, r"metrics\.jsonl", opening=2),
    FileKind("summary of a run", STUDENT, r"run\.json"),
    FileKind("part map", PARSE, r"\d{4}_.*\.png", opening=41),
    FileKind("manifest", EXPORT, r"manifest\.json"),
)

"""A cache entry that is damaged while a command uses it, and a clock that jumps."""

from __future__ import annotations

import shutil
from dataclasses import dataclass

from benchmarks.faults.comparison import differences
from benchmarks.faults.injection import FlipBit, JumpingClock, WhenWritten
from benchmarks.faults.outcomes import Outcome, outcome, repeated, told
from benchmarks.faults.workloads import CACHE, EXPORT, STUDENT, TEACH, Place, Workload, result_of

FLIPPED, JUMPS = "one bit of the cache flips", "clock jumps by days"


@dataclass(frozen=True)
class Flip:
    """One bit of a file of the cache changes when a file of the run is written."""

    subject: str
    workload: Workload
    written: str
    """Regular expression of the file of the run."""
    opening: int
    damaged: str
    """Pattern of the file in the cache; the first match is damaged."""


FLIPS = (
    Flip("CLIP features, in stage 1", TEACH, r"metrics\.jsonl", 1, "features/*/cells.npy"),
    Flip("crops or maps, in stage 2", TEACH, r"metrics\.jsonl", 8, "crops/*/pixels.npy"),
    Flip("crops or maps, at the end", TEACH, r"teacher\.safetensors", 1, "crops/*/pixels.npy"),
    Flip("crops, in the start", STUDENT, r"metrics\.jsonl", 1, "crops/*/pixels.npy"),
    Flip("crops, in stage 2", STUDENT, r"metrics\.jsonl", 5, "crops/*/pixels.npy"),
    Flip("crops of the test split", EXPORT, r"model\.onnx", 1, "crops/*/pixels.npy"),
)


def flip_a_bit(place: Place, flip: Flip) -> Outcome:
    """Damage a cache entry while the command uses it; repeat the command."""
    place.reference(flip.workload)
    folder = place.folder / "flipped"
    shutil.rmtree(folder, ignore_errors=True)
    fault = WhenWritten(flip.written, FlipBit(folder / CACHE, flip.damaged), flip.opening)
    ended = place.run(flip.workload, folder, fault)
    problems = told(ended, "changed while this command was using it")
    problems += repeated(place, flip.workload, folder, folder / CACHE)
    return outcome(FLIPPED, flip.subject, ended, problems)


def let_clock_jump(place: Place, workload: Workload) -> Outcome:
    """Let the clock jump by up to 30 days whenever the command writes a file."""
    reference = place.reference(workload)
    folder = place.folder / "jumping"
    shutil.rmtree(folder, ignore_errors=True)
    ended = place.run(workload, folder, JumpingClock((folder,)))
    problems = told(ended, "", workload.code)
    problems += differences(reference, result_of(workload, folder))
    return outcome(JUMPS, workload.name, ended, problems)

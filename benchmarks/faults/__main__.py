"""`python -m benchmarks.faults`: let faults happen to every command, and print what became of it.

Each result is written at once; a run that was stopped continues. Exit code 3 if a fault did harm.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from benchmarks.faults import damage, disk, kills
from benchmarks.faults.outcomes import Outcome
from benchmarks.faults.processes import Forks
from benchmarks.faults.record import FILE, Record
from benchmarks.faults.tables import (
    FAULT_COLUMNS,
    KILL_COLUMNS,
    fault_rows,
    kill_rows,
    update_page,
)
from benchmarks.faults.workloads import WORKLOADS, Place
from pivl_distill.console import table
from pivl_distill.errors import VerificationError
from pivl_distill.storage.output_path import OutputPath

Trial = tuple[str, str, Callable[[], Outcome]]
"""Fault, what it happens to, and the function that tries it."""


def trials(place: Place) -> Iterator[Trial]:
    """Yield every fault but the kills."""
    for kind in disk.FILES:
        yield disk.FULL_MIDDLE, kind.name, lambda k=kind: disk.full_in_the_middle(place, k)
    for kind in disk.CACHED:
        yield disk.FULL_CACHE, kind.name, lambda k=kind: disk.full_cache(place, k)
    yield disk.FULL_CRASH, disk.CRASH_REPORT, lambda: disk.full_at_crash(place)
    for workload in WORKLOADS:
        for fault in (disk.FULL, disk.READ_ONLY):
            yield fault, workload.name, lambda f=fault, w=workload: disk.refused(place, w, f)
    for kind in disk.READ_ONLY_FILES:
        yield disk.DENIED_MIDDLE, kind.name, lambda k=kind: disk.denied_in_the_middle(place, k)
    for flip in damage.FLIPS:
        yield damage.FLIPPED, flip.subject, lambda f=flip: damage.flip_a_bit(place, f)
    for workload in WORKLOADS:
        yield damage.JUMPS, workload.name, lambda w=workload: damage.let_clock_jump(place, w)


@click.command()
@click.option("--out", type=OutputPath(), default=FILE, show_default=True, help="Result file.")
@click.option("--minutes", type=float, help="Begin nothing after this time; continue later.")
@click.option("--rounds", type=int, help="Rounds of kills of each command; default: 200 kills.")
@click.option("--page/--no-page", default=True, help="Also write docs/reliability.md.")
def main(out: Path, minutes: float | None, rounds: int | None, page: bool) -> None:
    """Kill, fill up, damage and disturb pivl-distill, and compare what it writes afterwards."""
    end = time.monotonic() + 60 * (minutes or 1e9)
    record = Record(out)
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        place = Place(Path(folder), Forks())
        complete = try_faults(record, place, end) and kill_all(record, place, end, rounds)
    table("kill -9", KILL_COLUMNS, kill_rows(record))
    table("Other faults", FAULT_COLUMNS, fault_rows(record))
    if page:
        update_page(record)
    for problem in record.problems:
        print(problem, file=sys.stderr)
    if not complete:
        print("Not everything has been tried yet: run the command again.")
    if record.problems:
        sys.exit(VerificationError.exit_code)


def try_faults(record: Record, place: Place, end: float) -> bool:
    """Try the faults that are not recorded; return whether there was time for all."""
    for fault, subject, attempt in trials(place):
        if record.has_fault(fault, subject):
            continue
        if time.monotonic() > end:
            return False
        start = time.monotonic()
        try:
            outcome = attempt()
        except disk.NoDiskError as error:
            record.skip(fault, str(error))
            continue
        record.add_fault(outcome, time.monotonic() - start)
        _tell(f"{fault}, {subject}", outcome.problem, start)
    return True


def kill_all(record: Record, place: Place, end: float, rounds: int | None) -> bool:
    """Run the rounds of kills that are not recorded; return whether there was time for all."""
    for workload in WORKLOADS:
        for number in range(kills.ROUNDS[workload.name] if rounds is None else rounds):
            if record.has_round(workload.name, number):
                continue
            if time.monotonic() > end:
                return False
            start = time.monotonic()
            killed = kills.kill_in_each_stage(place, workload, number)
            record.add_round(killed, time.monotonic() - start)
            problem = next((kill.problem for kill in killed if kill.problem), None)
            _tell(f"{workload.name}: killed {len(killed)} times", problem, start)
    return True


def _tell(what: str, problem: str | None, start: float) -> None:
    result = "as it must be" if problem is None else problem
    print(f"{what}: {result} ({time.monotonic() - start:.1f} s)", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()

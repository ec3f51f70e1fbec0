"""What a fault did to a command, and whether that is right."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from benchmarks.faults.comparison import differences
from benchmarks.faults.processes import Ended
from benchmarks.faults.workloads import Place, Workload, result_of


@dataclass(frozen=True)
class Outcome:
    """What a fault did."""

    fault: str
    subject: str
    """The kind of file, or the command."""
    code: int
    """Exit code of the command with the fault."""
    message: str
    """The last line that it printed, without folders."""
    problem: str | None
    """What is wrong; None if nothing is."""


def told(ended: Ended, reason: str, code: int = 2) -> list[str]:
    """Return what is wrong with the end of a command."""
    problems = [] if ended.code == code else [f"exit code {ended.code}: {ended.output[-500:]}"]
    for trace in ("Traceback", "Exception ignored", "Logging error"):
        if trace in ended.output:
            problems.append(f"it prints '{trace}'")
    if reason not in ended.output:
        problems.append(f"it does not say '{reason}'")
    return problems


def repeated(place: Place, workload: Workload, folder: Path, cache: Path) -> list[str]:
    """Repeat the command; return what then differs from an uninterrupted one."""
    again = place.run(workload, folder, cache=cache)
    if again.code != workload.code:
        return [f"repeated, exit code {again.code}: {again.output[-500:]}"]
    return differences(place.reference(workload), result_of(workload, folder))


def outcome(fault: str, subject: str, ended: Ended, problems: list[str]) -> Outcome:
    lines = [line for line in ended.output.splitlines() if line.strip()]
    told = [line for line in lines if line.startswith(("Error", "The ", "Warning"))] or lines
    message = re.sub(r"[^\s']*/(?=[^\s'/]+)", "…/", " ".join(told[-1:]))
    return Outcome(fault, subject, ended.code, message, "; ".join(problems) or None)

"""The result file of the faults: each result is on disk as soon as it is known.

A run that is stopped continues where it was. Results of another commit are kept, and named by it.
Several processes may add results to one file.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from filelock import FileLock

from benchmarks.experiment import RESULTS, Origin
from benchmarks.faults.kills import Kill
from benchmarks.faults.outcomes import Outcome
from pivl_distill.storage.files import write_json
from pivl_distill.storage.readers import read_json

FILE = RESULTS / "reliability" / "faults.json"


class Record:
    """Kills and outcomes of faults, with the code and the machine of each."""

    def __init__(self, path: Path, origin: Origin | None = None) -> None:
        self.path = path
        self.kills: list[dict[str, Any]] = []
        self.faults: list[dict[str, Any]] = []
        self.skipped: dict[str, str] = {}
        """Faults that cannot be tried here, and why."""
        self.origins: list[dict[str, Any]] = []
        self._read()
        self._origin = (origin or Origin.here()).model_dump()

    def has_round(self, workload: str, number: int) -> bool:
        """Whether a round of kills is recorded."""
        return any((kill["workload"], kill["round"]) == (workload, number) for kill in self.kills)

    def has_fault(self, fault: str, subject: str) -> bool:
        """Whether the outcome of a fault is recorded."""
        return any((row["fault"], row["subject"]) == (fault, subject) for row in self.faults)

    def add_round(self, kills: list[Kill], seconds: float) -> None:
        """Add the kills of a round, which took `seconds` in all."""
        each = round(seconds / max(1, len(kills)), 3)
        with self._changing():
            origin = self._origin_number()
            self.kills += [asdict(kill) | {"seconds": each, "origin": origin} for kill in kills]

    def add_fault(self, outcome: Outcome, seconds: float) -> None:
        """Add the outcome of a fault, which took `seconds`."""
        with self._changing():
            row = {"seconds": round(seconds, 3), "origin": self._origin_number()}
            self.faults.append(asdict(outcome) | row)

    def skip(self, fault: str, reason: str) -> None:
        """Say why a fault was not tried."""
        with self._changing():
            self.skipped[fault] = reason

    @property
    def problems(self) -> list[str]:
        """What went wrong, one line for each round and fault."""
        kills = [f"{k['workload']}, round {k['round']}: {k['problem']}" for k in self.kills]
        faults = [f"{f['fault']}, {f['subject']}: {f['problem']}" for f in self.faults]
        return [line for line in dict.fromkeys(kills + faults) if not line.endswith(": None")]

    def _origin_number(self) -> int:
        if self._origin not in self.origins:
            self.origins.append(self._origin)
        return self.origins.index(self._origin)

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Read what other processes have added, and write what is added inside the block."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.path.with_suffix(".lock")):
            self._read()
            yield
            names = ("origins", "kills", "faults", "skipped")
            write_json(self.path, {name: getattr(self, name) for name in names})

    def _read(self) -> None:
        if self.path.is_file():
            vars(self).update(read_json(self.path, "a record of faults"))

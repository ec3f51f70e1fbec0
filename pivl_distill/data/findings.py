"""What a check found: the images, people, files or splits that fail it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """Result of one check: the images, identities or splits that fail it."""

    subject: str
    found: tuple[str, ...]
    problem: bool

    @classmethod
    def of(cls, subject: str, found: Iterable[object], *, problem: bool = False) -> Finding:
        """Make a finding of objects, by their text."""
        return cls(subject, tuple(map(str, found)), problem)

    @property
    def verdict(self) -> str:
        """ok, note or PROBLEM."""
        if not self.found:
            return "ok"
        return "PROBLEM" if self.problem else "note"

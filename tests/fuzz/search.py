"""Generate cases of a sort, count what becomes of them, and reduce the first that fails."""

from __future__ import annotations

import warnings
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import hypothesis
from hypothesis import HealthCheck, Phase, given
from hypothesis.errors import HypothesisWarning

from fuzz.case import Case
from fuzz.sorts import SORTS
from fuzz.worker import Verdict, Worker

REGRESSIONS = Path(__file__).parent / "regressions"
"""Cases that failed once, `<sort>/<name>.json`; the tests examine them again."""


@dataclass
class Tally:
    """What became of the cases of one sort."""

    sort: str
    inputs: int = 0
    results: int = 0
    refusals: int = 0
    failures: dict[str, tuple[Case, Verdict]] = field(default_factory=dict)
    """Signature → the smallest case found, and its verdict."""
    failed: int = 0
    """Cases that failed, those of one cause counted each time."""
    wall_s: float = 0.0
    slowest_s: float = 0.0
    """Processor time of one case."""
    peak_bytes: int = 0
    """Resident memory that one case took."""

    def add(self, verdict: Verdict) -> None:
        """Count one case."""
        self.inputs += 1
        self.results += verdict.outcome == "result"
        self.refusals += verdict.outcome == "refusal"
        self.failed += verdict.outcome == "failure"
        self.slowest_s = max(self.slowest_s, verdict.cpu_s)
        self.peak_bytes = max(self.peak_bytes, verdict.peak_bytes)


class _FoundError(Exception):
    """A case failed in a way that was not known yet."""


def explore(tally: Tally, worker: Worker, inputs: int, seed: int | None) -> None:
    """Examine up to `inputs` cases; add the first new failure, reduced, to the tally.

    Without a seed the cases are the same in every call.
    """
    found: list[tuple[Case, Verdict]] = []

    def examine(case: Case) -> None:
        verdict = worker.examine(tally.sort, case)
        if not found:
            tally.add(verdict)
        if verdict.outcome != "failure" or verdict.signature in tally.failures:
            return
        if not found or verdict.signature == found[0][1].signature:
            found.append((case, verdict))
            raise _FoundError

    run = given(case=SORTS[tally.sort].cases())(examine)
    settings = hypothesis.settings(
        max_examples=inputs,
        derandomize=seed is None,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )
    with warnings.catch_warnings(), suppress(_FoundError):
        warnings.simplefilter("ignore", HypothesisWarning)  # files in the names of strategies
        settings(run if seed is None else hypothesis.seed(seed)(run))()
    if found:
        case, verdict = found[-1]  # hypothesis ends with the smallest one
        tally.failures[verdict.signature] = (case, verdict)


def keep(sort: str, case: Case, verdict: Verdict) -> Path:
    """Write a failed case as a regression file; return its path."""
    path = REGRESSIONS / sort / f"{case.digest}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(case.to_json(verdict.signature), encoding="utf-8")
    return path

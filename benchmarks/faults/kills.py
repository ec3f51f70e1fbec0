"""`kill -9` at many moments of every command; each is repeated, and its files are compared.

In a round, a command is killed once in each of its stages, one after the other, repeated after each
kill, and left to finish at the end. Half of the kills come at a certain call of the work, so that
they can be repeated exactly; the others come from outside after a certain time, so that they also
hit compiled code that is running, such as the building of an engine. The moments are drawn evenly
from each stage, by seed.
"""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import dataclass

from benchmarks.faults.comparison import damaged_files, differences
from benchmarks.faults.injection import Stages
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

ROUNDS = {
    TEACH.name: 4,
    STUDENT.name: 7,
    EXPORT.name: 4,
    PARSE.name: 4,
    EMBED_NPZ.name: 4,
    EMBED_PARQUET.name: 4,
    EVALUATE.name: 5,
    SYNTH.name: 3,
}
"""Rounds of each command; together they plan 229 kills."""
COMPLETE = ("is finished; there is nothing to resume", "synthetic exists already")
"""How a command refuses to do again what it had completed before it was killed."""
LAST_SHARE = 0.9
"""Only this part of a stage: the number of calls varies a little between runs."""


@dataclass(frozen=True)
class Kill:
    """A kill, and what became of the run."""

    workload: str
    stage: str
    moment: str
    """"call 17 of 300", or "0.200 of 0.900 s"."""
    round: int
    problem: str | None
    """What differs from the uninterrupted command; None if nothing does."""


def kill_in_each_stage(place: Place, workload: Workload, number: int) -> list[Kill]:
    """Run round `number`; return its kills. A moment that came too late is no kill."""
    reference, counts = place.reference(workload), measure_stages(place, workload)
    folder = place.folder / f"{workload.name}-{number}".replace(" ", "")
    shutil.rmtree(folder, ignore_errors=True)
    kills: list[tuple[str, str]] = []
    problems: list[str] = []
    for stage, name in enumerate(workload.stages):
        fault, moment = draw_moment(workload, stage, number, counts)
        ended = place.run(workload, folder, fault)
        if not ended.killed:
            problems += wrong_end(workload, ended)
            continue
        kills.append((name, moment))
        found = damaged_files(reference, result_of(workload, folder))
        problems += [f"killed in {name} at {moment}, {file} is partial" for file in found]
    problems += wrong_end(workload, place.run(workload, folder))
    problems += differences(reference, result_of(workload, folder))
    if not problems:
        shutil.rmtree(folder)
    problem = "; ".join(problems) or None
    return [Kill(workload.name, stage, moment, number, problem) for stage, moment in kills]


def measure_stages(place: Place, workload: Workload) -> dict[str, list[float]]:
    """Return the `calls` and the `seconds` of each stage of the uninterrupted command."""
    report, functions = place.folder / f"{workload.name}.stages.json", (*workload.stages.values(),)
    if not report.is_file():
        measured: dict[str, list[float]] = {}
        for name, counted in (("calls", True), ("seconds", False)):
            folder = place.folder / "measured"
            ended = place.run(workload, folder, Stages(functions, report=report, counted=counted))
            assert ended.code == workload.code, ended.output
            measured[name] = json.loads(report.read_text())[name]
            shutil.rmtree(folder)
        report.write_text(json.dumps(measured))
    return json.loads(report.read_text())


def draw_moment(
    workload: Workload, stage: int, number: int, counts: dict[str, list[float]]
) -> tuple[Stages, str]:
    """Return the kill of a stage in a round, and its description.

    The rounds divide the stage into parts of equal length; each has a moment in one of them.
    """
    rounds, functions = ROUNDS[workload.name], (*workload.stages.values(),)
    rng = random.Random(f"{workload.name}, {stage}")
    order = rng.sample(range(rounds), rounds)
    share = LAST_SHARE * (order[number] + random.Random(f"{rng.random()}{number}").random())
    share /= rounds
    if (stage + number) % 2:
        seconds = counts["seconds"][stage]
        after = share * seconds
        return Stages(functions, kill_after=(stage, after)), f"{after:.3f} of {seconds:.3f} s"
    calls = int(counts["calls"][stage])
    call = 1 + int(share * calls)
    return Stages(functions, kill_at=(stage, call)), f"call {call} of {calls}"


def wrong_end(workload: Workload, ended: Ended) -> list[str]:
    """Return what is wrong with the end of a command that no kill has hit.

    A command that was killed after its last file refuses to be repeated.
    """
    complete = ended.code == 2 and any(refusal in ended.output for refusal in COMPLETE)
    if ended.code == workload.code or complete:
        return []
    return [f"exit code {ended.code}: {ended.output[-500:]}"]

"""The tables of a record of faults, on the command line and in docs/reliability.md."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.faults.comparison import LEFT_OUT
from benchmarks.faults.record import Record
from benchmarks.faults.workloads import WORKLOADS
from pivl_distill.storage.files import write_text

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
MARKED = re.compile(r"(<!-- faults -->\n).*?(?=<!-- end of faults -->)", flags=re.DOTALL)
KILL_COLUMNS = ("command", "stage", "killed", "at a call", "at a time", "equal afterwards")
FAULT_COLUMNS = ("fault", "in", "exit code", "as it must be")


def kill_rows(record: Record) -> list[list[str]]:
    """Return a row for each stage of each command, and the sum."""
    rows = [
        _kill_row(workload.name, stage, record.kills)
        for workload in WORKLOADS
        for stage in workload.stages
        if any(kill["workload"] == workload.name for kill in record.kills)
    ]
    return [*rows, ["all", "", *_counts(record.kills)]]


def _kill_row(workload: str, stage: str, kills: Iterable[dict[str, Any]]) -> list[str]:
    own = [kill for kill in kills if (kill["workload"], kill["stage"]) == (workload, stage)]
    return [workload, stage, *_counts(own)]


def _counts(kills: list[dict[str, Any]]) -> list[str]:
    called = sum(kill["moment"].startswith("call") for kill in kills)
    equal = sum(kill["problem"] is None for kill in kills)
    return [str(n) for n in (len(kills), called, len(kills) - called, equal)]


def fault_rows(record: Record) -> list[list[str]]:
    """Return a row for each fault and what it happened to."""
    return [
        [
            row["fault"],
            row["subject"],
            str(row["code"]),
            "yes" if row["problem"] is None else f"no: {row['problem']}",
        ]
        for row in record.faults
    ]


def update_page(record: Record, page: Path = PAGE) -> None:
    """Write the tables between the marks of docs/reliability.md."""
    text = page.read_text(encoding="utf-8")
    write_text(page, MARKED.sub(lambda match: match[1] + render(record), text))


def render(record: Record) -> str:
    """Return the tables as Markdown, with their origin and what is not compared."""
    left_out = "; ".join(
        f"{text} in `{name}`"
        for name, text in (
            (pattern.replace("\\", "").replace(".*", "*"), t) for pattern, t in LEFT_OUT.items()
        )
    )
    parts = [
        f"Not compared: {left_out}. Everything else is, to the last byte.",
        _markdown(KILL_COLUMNS, kill_rows(record)),
        _markdown(FAULT_COLUMNS, fault_rows(record)),
        *(f"Not tried: {fault} ({reason})." for fault, reason in record.skipped.items()),
        _origins(record),
    ]
    return "\n" + "\n\n".join(parts) + "\n\n"


def _markdown(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    columns = tuple(columns)
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(c.replace('|', chr(92) + '|') for c in ln)} |" for ln in lines)


def _origins(record: Record) -> str:
    results = [*record.kills, *record.faults]
    sentences = []
    for number, origin in enumerate(record.origins):
        own = [result for result in results if result["origin"] == number]
        minutes = sum(result["seconds"] for result in own) / 60
        versions = ", ".join(f"{name} {v}" for name, v in origin["versions"].items())
        sentences.append(
            f"{len(own)} results at commit {origin['commit']} in {minutes:.0f} minutes on"
            f" {origin['processor']}, {origin['threads']} thread ({versions})."
        )
    return " ".join(sentences)

"""The figures of a search: a Markdown table, and the file and the page that hold them.

`docs/reliability.md` shows the figures of `benchmarks/results/reliability/fuzz.json`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.experiment import RESULTS, Origin
from fuzz.search import Tally
from fuzz.sorts import SORTS
from pivl_distill.storage.files import write_json, write_text
from pivl_distill.storage.readers import read_json

FILE = RESULTS / "reliability" / "fuzz.json"
PAGE = RESULTS.parents[1] / "docs" / "reliability.md"
MARKED = re.compile(r"(<!-- fuzz -->\n).*?(?=<!-- end of fuzz -->)", flags=re.DOTALL)
WHAT = "a record of random inputs"
COLUMNS = (
    *("sort", "inputs", "results", "refusals", "anything else", "time"),
    *("longest", "most memory"),
)


def rows(tallies: Iterable[Tally]) -> list[dict[str, Any]]:
    """Return the figures of each sort as JSON values."""
    return [
        {
            "sort": tally.sort,
            "inputs": tally.inputs,
            "results": tally.results,
            "refusals": tally.refusals,
            "failures": tally.failed,
            "wall_s": round(tally.wall_s, 1),
            "slowest_cpu_s": round(tally.slowest_s, 3),
            "peak_mib": round(tally.peak_bytes / 2**20, 1),
        }
        for tally in tallies
    ]


def markdown(figures: Iterable[dict[str, Any]]) -> str:
    """Return the table of the figures that `rows` returns."""
    lines = [COLUMNS, ["---"] * len(COLUMNS), *(_cells(row) for row in figures)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cells(row: dict[str, Any]) -> list[str]:
    counts = [f"{row[name]:,}" for name in ("inputs", "results", "refusals", "failures")]
    return [
        row["sort"].replace("_", " "),
        *counts,
        f"{row['wall_s'] / 60:.1f} min",
        f"{row['slowest_cpu_s']:.2f} s",
        f"{row['peak_mib']:.0f} MiB",
    ]


def record(tallies: Iterable[Tally], origin: Origin, file: Path = FILE, page: Path = PAGE) -> None:
    """Write the figures of some sorts with their origin, and the table of all on the page."""
    recorded = read_json(file, WHAT) if file.is_file() else {"origins": [], "rows": []}
    if (here := origin.model_dump()) not in recorded["origins"]:
        recorded["origins"].append(here)
    number = recorded["origins"].index(here)
    by_sort = {row["sort"]: row for row in recorded["rows"]}
    by_sort |= {row["sort"]: {**row, "origin": number} for row in rows(tallies)}
    ordered = [by_sort[sort] for sort in SORTS if sort in by_sort]
    write_json(file, {"origins": recorded["origins"], "rows": ordered})
    write_text(page, render_page(page.read_text(encoding="utf-8"), file))


def render_page(text: str, file: Path = FILE) -> str:
    """Return a page with the table of a file of `record` between its marks."""
    recorded = read_json(file, WHAT)
    origins = [recorded["origins"][n] for n in sorted({row["origin"] for row in recorded["rows"]})]
    sentences = [
        f"At commit {origin['commit']} on {origin['processor']}, {origin['threads']} thread"
        f" ({', '.join(f'{name} {version}' for name, version in origin['versions'].items())})."
        for origin in origins
    ]
    table = f"\n{markdown(recorded['rows'])}\n\n{' '.join(sentences)}\n\n"
    return MARKED.sub(lambda match: match[1] + table, text)

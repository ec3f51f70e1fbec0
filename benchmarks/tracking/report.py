"""The result file of the tracking benchmark, its intervals, and its table in docs/trackers.md."""

from __future__ import annotations

import re
import statistics
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from benchmarks.experiment import RESULTS, Origin
from pivl_distill.errors import PivlError
from pivl_distill.runs.seed_differences import Difference, paired_difference
from pivl_distill.storage.files import write_text

RESULT = RESULTS / "tracking" / "synthetic.json"
PAGE = Path(__file__).parent.parent.parent / "docs" / "trackers.md"
MARKED_TABLE = re.compile(r"(<!-- results: tracking -->\n).*?(?=<!-- end -->)", flags=re.DOTALL)

TRACKERS = {"botsort": "BoT-SORT (BoxMOT)", "deep-sort": "deep-sort-realtime", "norfair": "norfair"}
"""Names in examples/track_with_export.py, and in the table."""
ARMS: dict[str, list[str]] = {"without": ["--without-reid"], "with": []}
COLUMNS = (
    "tracker", "ReID", "IDF1", "HOTA", "AssA", "switches", "gain in IDF1", "gain in HOTA",
)  # fmt: skip

Figure = Literal["IDF1", "HOTA", "AssA", "DetA", "switches"]


class Row(BaseModel):
    """Figures of one tracker on one video; shares are in 0..1, `switches` is a count."""

    model_config = ConfigDict(extra="forbid")
    tracker: str
    arm: Literal["with", "without"]
    sequence: str
    IDF1: float
    HOTA: float
    AssA: float
    DetA: float
    switches: int


class Record(BaseModel):
    """One run of the benchmark."""

    model_config = ConfigDict(extra="forbid")
    command: str = "python -m benchmarks.tracking"
    network: str
    precision: str
    data: str | None
    """Data set on which the export's threshold was measured, if it has a name."""
    max_cosine_distance: float
    frames: int
    packages: list[str]
    origin: Origin
    rows: list[Row]

    def values(self, tracker: str, arm: str, figure: Figure) -> list[float]:
        """The figure on every video, in the order of their names; shares in points."""
        found = [row for row in self.rows if (row.tracker, row.arm) == (tracker, arm)]
        scale = 1 if figure == "switches" else 100
        return [scale * getattr(row, figure) for row in sorted(found, key=lambda r: r.sequence)]

    def gain(self, tracker: str, figure: Figure) -> Difference:
        """Mean difference with − without ReID on the same videos, with its 95 % interval."""
        ours, theirs = (self.values(tracker, arm, figure) for arm in ("with", "without"))
        return paired_difference(ours, theirs)


def table_cells(record: Record) -> list[tuple[str, ...]]:
    """Return the cells of the table, two rows per tracker, by `COLUMNS`."""
    rows = []
    for tracker, label in TRACKERS.items():
        for arm in ARMS:
            figures: tuple[Figure, ...] = ("IDF1", "HOTA", "AssA", "switches")
            means = [statistics.mean(record.values(tracker, arm, figure)) for figure in figures]
            gains = [str(record.gain(tracker, figure)) for figure in ("IDF1", "HOTA")]
            cells = [f"{mean:.1f}" for mean in means] + (gains if arm == "with" else ["", ""])
            rows.append((label, arm, *cells))
    return rows


def render_page(text: str, record: Record) -> str:
    """Return the page with the table of `record` between its marks."""
    lines = [COLUMNS, ("---",) * len(COLUMNS), *table_cells(record)]
    shown = "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
    return MARKED_TABLE.sub(lambda match: f"{match[1]}\n{shown}\n\n", text)


def read(path: Path = RESULT) -> Record:
    """Return a result file; raises PivlError if it is not one."""
    try:
        return Record.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PivlError(f"'{path}' is not a result of the tracking benchmark: {error}") from error


def record(measured: Record) -> None:
    """Write the result file, and its table into the page."""
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    write_text(RESULT, measured.model_dump_json(indent=1) + "\n")
    write_text(PAGE, render_page(PAGE.read_text(encoding="utf-8"), measured))

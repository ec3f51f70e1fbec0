"""A comparison of runs as a table for the terminal, as CSV, Markdown or LaTeX."""

from __future__ import annotations

import csv
import io
import re
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Literal

from pivl_distill.app.comparison import Comparison, Row
from pivl_distill.console import table
from pivl_distill.errors import PivlError
from pivl_distill.runs.seed_differences import CONFIDENCE, Difference, spread

TableFormat = Literal["table", "csv", "markdown", "latex"]
SUFFIXES: dict[str, TableFormat] = {".csv": "csv", ".md": "markdown", ".tex": "latex"}
SCORES = ("mAP", "Rank-1", "difference in mAP", "difference in Rank-1", "seeds")
CSV_SCORES = (
    *("seeds", "mAP", "mAP_deviation", "rank1", "rank1_deviation"),
    *("mAP_difference", "mAP_low", "mAP_high"),
    *("rank1_difference", "rank1_low", "rank1_high"),
)
_LATEX_ESCAPES = {
    **{character: rf"\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "✓": r"\checkmark",
    "±": r"$\pm$",
    "×": r"$\times$",
    "–": "--",
}


def caption(comparison: Comparison) -> str:
    """Return what the figures mean, in one paragraph."""
    interval = (
        "the mean of the differences seed by seed, over the seeds that both have"
        if comparison.paired
        else "the difference of the means"
    )
    test = "paired t" if comparison.paired else "Welch"
    return (
        f"Scores on {comparison.data} in percent, mean ± standard deviation over seeds."
        f" Differences to the first row in points: {interval}, with its {CONFIDENCE:.0%} interval"
        f" ({test}) where there are two seeds or more."
    )


def choose_format(given: TableFormat | None, out: Path | None) -> TableFormat:
    """Return the format to write: the `given` one, else that of the suffix of `out`.

    Raises PivlError if the file's format is not known, or is a table for the terminal.
    """
    if out is None:
        return given or "table"
    form = given or SUFFIXES.get(out.suffix.lower())
    if form is None or form == "table":
        raise PivlError(
            f"{out} can be CSV, Markdown or LaTeX; name it .csv, .md or .tex, or use --format."
        )
    return form


def print_comparison(comparison: Comparison) -> None:
    """Print the table on the terminal."""
    table(caption(comparison), (*comparison.columns, *SCORES), map(_cells, comparison.rows))


def as_text(comparison: Comparison, form: TableFormat) -> str:
    """Return the comparison as a file; `form` is not "table"."""
    writers: dict[str, Callable[[Comparison], str]] = {
        "csv": _csv,
        "markdown": _markdown,
        "latex": _latex,
    }
    return writers[form](comparison)


def _cells(row: Row) -> list[str]:
    differences = (row.mAP_difference, row.rank1_difference)
    return [
        *row.labels,
        spread(row.values("mAP")),
        spread(row.values("rank1")),
        *("" if difference is None else str(difference) for difference in differences),
        ", ".join(str(run.seed) for run in row.runs),
    ]


def _csv(comparison: Comparison) -> str:
    """All figures in full precision, in columns of their own."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow((*comparison.columns, *CSV_SCORES))
    for row in comparison.rows:
        seeds = " ".join(str(run.seed) for run in row.runs)
        scores = [
            figure
            for values in (row.values("mAP"), row.values("rank1"))
            for figure in (
                statistics.mean(values),
                statistics.stdev(values) if len(values) > 1 else None,
            )
        ]
        differences = [*_figures(row.mAP_difference), *_figures(row.rank1_difference)]
        writer.writerow([*row.labels, seeds, *scores, *differences])
    return file.getvalue()


def _figures(difference: Difference | None) -> tuple[float | None, ...]:
    if difference is None:
        return None, None, None
    return difference.mean, difference.low, difference.high


def _markdown(comparison: Comparison) -> str:
    heads = [*comparison.columns, *SCORES]
    aligned = ["---"] * len(comparison.columns) + ["---:"] * len(SCORES)
    lines = [heads, aligned, *map(_cells, comparison.rows)]
    rows = (_pipes(cell.replace("|", "\\|") for cell in line) for line in lines)
    return "\n".join(rows) + f"\n\n{caption(comparison)}\n"


def _pipes(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _latex(comparison: Comparison) -> str:
    r"""A table for the packages booktabs and amssymb (\checkmark)."""
    columns = "l" * len(comparison.columns) + "r" * len(SCORES)
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        _latex_row((*comparison.columns, *SCORES)),
        r"\midrule",
        *(_latex_row(_cells(row)) for row in comparison.rows),
        r"\bottomrule",
        r"\end{tabular}",
        rf"\caption{{{_escape(caption(comparison))}}}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join(map(_escape, cells)) + r" \\"


def _escape(text: str) -> str:
    # Braces keep LaTeX from reading the "[" of an interval as an argument.
    escaped = "".join(_LATEX_ESCAPES.get(character, character) for character in text)
    return re.sub(r"\[", "{[}", escaped)

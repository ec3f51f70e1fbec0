"""Robustness card: scores of the exported files under corruptions, and by camera pair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pivl_distill.data.corruptions import CORRUPTIONS, STRENGTHS
from pivl_distill.report.blocks import (
    Block,
    Chart,
    ChartGrid,
    LeftOutError,
    Row,
    Table,
    Text,
    number,
    share,
)
from pivl_distill.report.charts import curves
from pivl_distill.report.context import ReportContext
from pivl_distill.retrieval.robustness import RobustnessCard

TITLE = "Robustness card"
SHOWN_PAIRS = 30
"""Camera pairs in a table, the worst first."""

MISSING = (
    "No export among the runs has a robustness card: `pivl-distill export --corruptions` measures"
    " it, or `pivl-distill evaluate RUN --corruptions`."
)


def build(context: ReportContext) -> list[Block]:
    """Return curves over strengths, all scores, and those of camera pairs."""
    cards = find_cards(context)
    if not cards:
        raise LeftOutError(MISSING)
    splits = {label: card.split for label, card in cards.items()}
    text = "; ".join(f"{label}: corrupted {split}" for label, split in splits.items())
    note = "Corruptions and strengths are explained in docs/robustness.md."
    blocks: list[Block] = [Text(f"Measured when the files were exported ({text}). {note}")]
    return [*blocks, _means(cards), _curves(cards), _conditions(cards), *_pairs(cards)]


def find_cards(context: ReportContext) -> dict[str, RobustnessCard]:
    """Return the cards in the manifests, by run and file."""
    return {
        f"{run.name}/{artifact.file}": artifact.robustness
        for run in context.runs_of("export")
        for artifact in (run.manifest.artifacts if run.manifest is not None else ())
        if artifact.robustness is not None
    }


def _means(cards: Mapping[str, RobustnessCard]) -> Table:
    columns = ("File", "mAP", "mAP corrupted", "Rank-1", "Rank-1 corrupted")
    rows: list[Row] = []
    for label, card in cards.items():
        clean, mean = card.clean, card.mean()
        scores = (clean.mAP, mean.mAP, clean.rank1, mean.rank1)
        rows.append((label, *map(share, scores)))
    return Table("Means over all corruptions and strengths", columns, rows)


def _curves(cards: Mapping[str, RobustnessCard]) -> ChartGrid:
    """One chart per corruption, with a curve per file; strength 0 is without corruption."""
    charts = []
    for name in CORRUPTIONS:
        series: dict[str, tuple[Sequence[float], Sequence[float]]] = {
            label: (
                (0, *STRENGTHS),
                [100 * card.clean.mAP, *(100 * row.mAP for row in card.corruptions()[name])],
            )
            for label, card in cards.items()
            if name in card.corruptions()
        }
        if series:
            title = name.replace("_", " ")
            description = f"mAP of each file over the strength of the corruption: {title}."
            chart = curves(series, "strength", "mAP, %", markers=True)
            charts.append(Chart(title, chart, description, height_px=260))
    return ChartGrid(charts)


def _conditions(cards: Mapping[str, RobustnessCard]) -> Table:
    columns = ("File", "Corruption", "Strength", "mAP", "Rank-1")
    rows: list[Row] = [
        (label, row.corruption, number(row.strength), share(row.mAP, 2), share(row.rank1, 2))
        for label, card in cards.items()
        for row in card.conditions
    ]
    return Table("Numbers: every corruption and strength", columns, rows, folded=True)


def _pairs(cards: Mapping[str, RobustnessCard]) -> list[Block]:
    """A table per file, the pairs with the lowest mean mAP first."""
    tables: list[Block] = []
    columns = ("Query → gallery", "Queries", "mAP", "Mean corrupted", "Worst", "Corruption")
    for label, card in cards.items():
        rows = []
        for pair in card.camera_pairs:
            means = {name: scores.mAP for name, scores in pair.corrupted.items()}
            worst, mean = min(means, key=means.__getitem__), sum(means.values()) / len(means)
            cameras = f"{pair.query_camera} → {pair.gallery_camera}"
            shares = (share(pair.clean.mAP), share(mean), share(means[worst]))
            rows.append((mean, (cameras, number(pair.queries), *shares, worst)))
        rows.sort(key=lambda row: row[0])
        left = f", the worst {SHOWN_PAIRS} of {len(rows)}" if len(rows) > SHOWN_PAIRS else ""
        shown = [cells for _, cells in rows[:SHOWN_PAIRS]]
        if shown:
            tables.append(Table(f"Camera pairs of {label}{left}", columns, shown, folded=True))
    return tables

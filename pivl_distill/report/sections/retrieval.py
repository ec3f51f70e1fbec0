"""Retrieval: what is found and what is confused, and how scores depend on the query."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from pivl_distill.errors import PivlError
from pivl_distill.report.blocks import (
    Block,
    Chart,
    ChartGrid,
    Heading,
    LeftOutError,
    Row,
    Table,
    Text,
    number,
    share,
)
from pivl_distill.report.charts import curves, figure, heat_map, style
from pivl_distill.report.context import ReportContext
from pivl_distill.report.intervals import bootstrap_mean
from pivl_distill.report.networks import ScoredNetwork
from pivl_distill.report.part_visibility import MIN_QUERIES, part_visibility
from pivl_distill.report.strips import MAX_NETWORKS, strips
from pivl_distill.report.verification import verification
from pivl_distill.retrieval.camera_pairs import camera_pairs

TITLE = "Retrieval"
MAX_GROUPS = 8
"""Points of the chart of average precision against crops per person."""
LISTED_RANKS = (1, 2, 3, 5, 10, 20, 50)


def build(context: ReportContext) -> list[Block]:
    """Return strips, curves and error tables of all networks that could be scored."""
    scored = context.require_scored()
    files = (f"{n.label}: {'/'.join(n.evaluation.path.parts[-2:])}" for n in scored)
    blocks: list[Block] = [Text(f"Scored now on {context.data.spec}. {'; '.join(files)}.")]
    blocks += [Text(reason, note=True) for reason in context.not_scored]
    blocks.append(Heading("Queries and their first matches"))
    try:
        blocks.append(strips(context, scored))
    except (LeftOutError, PivlError) as error:
        blocks.append(Text(f"Pictures are left out. {error}", note=True))
    blocks += [Heading("Scores"), ChartGrid([_cmc(scored), _crops_per_person(scored)])]
    blocks += [Heading("Errors by camera pair"), *_camera_pairs(scored)]
    blocks += [Heading("Errors by hidden part"), *_hidden_parts(context, scored)]
    return blocks + verification(scored)


def _cmc(scored: Sequence[ScoredNetwork]) -> Chart:
    results = {network.network.name: network.scores.result() for network in scored}
    ranks = np.arange(1, len(next(iter(results.values())).cmc) + 1)
    found = {label: (ranks, 100 * result.cmc) for label, result in results.items()}
    rows: list[Row] = [
        [number(rank), *(share(result.rank(rank), 2) for result in results.values())]
        for rank in LISTED_RANKS
        if rank <= len(ranks)
    ]
    return Chart(
        "Cumulative matching curve",
        curves(found, "rank k", "queries with a hit in the first k, %"),
        "Share of queries with at least one hit among the first k gallery crops.",
        Table("Numbers: cumulative matching curve", ["Rank", *results], rows, folded=True),
        log_axes=("xaxis",),
    )


def crops_per_query(network: ScoredNetwork) -> np.ndarray:
    """Return the number of gallery crops that are hits of each query: int64 [Q]."""
    query, gallery = network.evaluation.test.query, network.evaluation.test.gallery
    counts = np.zeros(len(query), np.int64)
    for row in range(len(query)):
        hits = gallery.pids == query.pids[row]
        if query.camids is not None and gallery.camids is not None:
            hits &= gallery.camids != query.camids[row]
        counts[row] = np.count_nonzero(hits)
    return counts


def group_by_count(counts: np.ndarray) -> list[np.ndarray]:
    """Return at most `MAX_GROUPS` groups of positions, of ascending counts and similar size.

    Positions of equal count are in one group.
    """
    edges = np.unique(np.quantile(counts, np.linspace(0, 1, MAX_GROUPS + 1), method="nearest"))
    bounds = [*edges[:-1], np.inf] if len(edges) > 1 else [edges[0], np.inf]
    groups = (
        np.flatnonzero((counts >= low) & (counts < high))
        for low, high in itertools.pairwise(bounds)
    )
    return [group for group in groups if len(group)]


def _crops_per_person(scored: Sequence[ScoredNetwork]) -> Chart:
    from plotly.graph_objects import Scatter

    chart = figure("gallery crops of the person", "mean average precision, %", scattermode="group")
    chart.update_layout(xaxis={"type": "category"})
    rows: list[Row] = []
    for index, network in enumerate(scored):
        valid = np.flatnonzero(network.scores.valid)
        counts = crops_per_query(network)[valid]
        x, mean, low, high = [], [], [], []
        for group in group_by_count(counts):
            precision = network.scores.average_precision[valid[group]]
            interval = bootstrap_mean(precision)
            x.append(_span(counts[group]))
            mean.append(100 * float(precision.mean()))
            low.append(mean[-1] - 100 * interval.low)
            high.append(100 * interval.high - mean[-1])
            cells = (number(len(group)), share(float(precision.mean()), 2))
            rows.append((network.label, x[-1], *cells, *(share(end, 2) for end in interval)))
        bars = {"type": "data", "symmetric": False, "array": high, "arrayminus": low}
        mode, text = "markers", "%{x} crops: %{y:.2f} %"
        chart.add_trace(
            Scatter(
                x=x, y=mean, error_y=bars, name=network.network.name, mode=mode, hovertemplate=text,
                **style(index),
            )
        )  # fmt: skip
    lowest = min(min(np.subtract(bar.y, bar.error_y.arrayminus)) for bar in chart.data)
    chart.update_layout(yaxis={"autorangeoptions": {"clipmin": np.floor(lowest - 1)}})
    columns = ("Network", "Crops", "Queries", "Mean average precision", "Low", "High")
    return Chart(
        "Average precision against crops per person",
        chart,
        "Queries grouped by the number of gallery crops that are hits; bars are 95 % intervals.",
        Table("Numbers: average precision against crops", columns, rows, folded=True),
    )


def _span(counts: np.ndarray) -> str:
    low, high = counts.min(), counts.max()
    return f"{low}" if low == high else f"{low} – {high}"


def _camera_pairs(scored: Sequence[ScoredNetwork]) -> list[Block]:
    errors: dict[tuple[str, tuple[int, int]], float] = {}
    rows: list[Row] = []
    for network in scored[:MAX_NETWORKS]:
        evaluation = network.evaluation
        for pair in camera_pairs(evaluation.test):
            mean_ap, rank1 = pair.scores(evaluation.features, evaluation.test)
            cameras = pair.query_camera, pair.gallery_camera
            errors[network.label, cameras] = 100 * (1 - rank1)
            name = f"{network.label}: {cameras[0] + 1} → {cameras[1] + 1}"
            rows.append([name, number(len(pair.query)), share(mean_ap, 2), share(rank1, 2)])
    if not errors:
        return [Text("Left out: cameras are unknown, or there is only one.", note=True)]
    columns = ("Query camera → gallery camera", "Queries", "mAP", "Rank-1")
    return [
        Text("Queries of one camera against the gallery of another alone; one colour scale."),
        ChartGrid(_camera_maps(errors)),
        Table("Numbers: scores of camera pairs", columns, rows, folded=True),
    ]


def _camera_maps(errors: dict[tuple[str, tuple[int, int]], float]) -> list[Chart]:
    """One heat map per network, query cameras × gallery cameras, on the same colour scale."""
    query, gallery = (sorted({cameras[side] for _, cameras in errors}) for side in (0, 1))
    axes = [[f"camera {camera + 1}" for camera in side] for side in (gallery, query)]
    span = (0.0, max(*errors.values(), 1.0))
    charts = []
    for label in dict.fromkeys(label for label, _ in errors):
        values = np.array(
            [[errors.get((label, (q, g)), np.nan) for g in gallery] for q in query], dtype=float
        )
        titles = ("gallery", "query")
        drawn = heat_map(values, *axes, colours="Cividis", span=span, titles=titles)
        charts.append(Chart(label, drawn, "Queries whose first match is wrong, in %."))
    return charts


def _hidden_parts(context: ReportContext, scored: Sequence[ScoredNetwork]) -> list[Block]:
    try:
        parts = part_visibility(context, scored[0].evaluation.test.query.crops.shape[1:3])
    except (LeftOutError, PivlError) as error:
        return [Text(f"Left out: {error}", note=True)]
    losses: list[Row] = []
    scores: list[Row] = []
    for part, label in enumerate(parts.labels):
        valid = scored[0].scores.valid
        groups = parts.shown[:, part] & valid, parts.hidden[:, part] & valid
        if min(group.sum() for group in groups) < MIN_QUERIES:
            continue
        counts = [number(int(group.sum())) for group in groups]
        loss = []
        for network in scored:
            precision = network.scores.average_precision
            shown, hidden = (float(precision[group].mean()) for group in groups)
            loss.append(number(100 * (shown - hidden), "{:.1f}"))
            scores.append((f"{label}, {network.label}", *counts, share(shown), share(hidden)))
        losses.append((label, *counts, *loss))
    if not losses:
        return [Text("Left out: no part is hidden in enough queries.", note=True)]
    text = (
        "A part is hidden if the query's part map lacks it and another crop of the person has it;"
        f" parts that fewer than {MIN_QUERIES} queries show or hide are not listed. Hidden parts"
        " often come with other difficulties, so a loss is not the effect of the part alone."
    )
    counted = ("Queries that show it", "Queries that hide it")
    names = [network.network.name for network in scored]
    return [
        Text(text),
        Table("Points of mAP lost if a part is hidden", ("Part", *counted, *names), losses),
        Table(
            "Numbers: mAP by hidden part",
            ("Part and network", *counted, "mAP if shown", "mAP if hidden"),
            scores,
            folded=True,
        ),
    ]

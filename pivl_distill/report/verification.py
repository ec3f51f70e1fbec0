"""Same person or not: cosine histograms, error rates and operating thresholds, in Retrieval."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pivl_distill.report.blocks import (
    Block,
    Cell,
    Chart,
    ChartGrid,
    Heading,
    Row,
    Table,
    Text,
    number,
    share,
)
from pivl_distill.report.charts import curves, figure
from pivl_distill.report.networks import ScoredNetwork
from pivl_distill.retrieval.score_distribution import ScoreDistribution, score_distribution
from pivl_distill.retrieval.thresholds import OperatingThreshold, operating_thresholds

BINS = 100
SAME, DIFFERENT = "#2f7ed8", "#c8641b"


def verification(scored: Sequence[ScoredNetwork]) -> list[Block]:
    """Return histograms of cosines, the curve of error rates, and a table of thresholds."""
    found = [
        (
            network,
            score_distribution(network.evaluation.features, network.evaluation.test),
            network_thresholds(network),
        )
        for network in scored
    ]
    text = (
        "Pairs are all queries × all gallery crops, of different cameras if these are known."
        " Vertical lines are the operating thresholds, labelled by their false-accept rate: those"
        " in the manifest of an export, measured now for networks without one."
    )
    return [
        Heading("Same person or not"),
        Text(text),
        ChartGrid([_histogram(*parts) for parts in found]),
        _error_rates({network.network.name: counts for network, counts, _ in found}),
        _threshold_table(found),
    ]


def network_thresholds(network: ScoredNetwork) -> Sequence[OperatingThreshold]:
    """Return the thresholds in the manifest of the scored file, else those of its features."""
    target = network.evaluation.path
    for run in network.network.exports:
        if run.manifest is not None and run.path == target.parent:
            thresholds = run.manifest.artifact(target.name).thresholds
            if thresholds:
                return thresholds
    features, test = network.evaluation.features, network.evaluation.test
    return operating_thresholds(
        *(features.query, features.gallery, test.query.pids, test.gallery.pids),
        *(test.query.camids, test.gallery.camids),
    )


def _histogram(
    network: ScoredNetwork, counts: ScoreDistribution, thresholds: Sequence[OperatingThreshold]
) -> Chart:
    from plotly.graph_objects import Bar

    chart = figure("cosine", "share of pairs, %", barmode="overlay", bargap=0)
    middles, *sides = counts.shares(BINS)
    kept = np.flatnonzero(sides[0] + sides[1])
    kept = np.arange(kept.min(), kept.max() + 1)
    rows: list[Row] = [
        [number(float(middles[k]), "{:.2f}"), *(share(float(side[k]), 2) for side in sides)]
        for k in kept
    ]
    for name, side, colour in zip(
        ("same person", "different people"), sides, (SAME, DIFFERENT), strict=True
    ):
        chart.add_trace(
            Bar(
                x=middles[kept], y=100 * side[kept], name=name, opacity=0.65, marker_color=colour,
                marker_line_width=0, hovertemplate="%{x:.2f}: %{y:.3f} %",
            )
        )  # fmt: skip
    for threshold in thresholds:
        if threshold.cosine is not None:
            chart.add_vline(
                x=threshold.cosine,
                line={"dash": "dot", "width": 2, "color": "#7a828c"},
                annotation={"text": f"{threshold.far:g}", "textangle": -90, "yanchor": "top"},
            )
    return Chart(
        network.label,
        chart,
        f"Cosines of {counts.genuine.sum():,} pairs of one person and {counts.impostor.sum():,} of"
        f" two people; equal error rate {100 * counts.equal_error_rate:.2f} %.",
        Table(f"Numbers: cosines of {network.label}", ("Cosine", "Same", "Different"), rows, True),
        log_axes=("yaxis",),
    )


def _error_rates(found: dict[str, ScoreDistribution]) -> Chart:
    drawn = {}
    for label, counts in found.items():
        accepts, rejects = counts.false_accept_rates, counts.false_reject_rates
        kept = np.flatnonzero((accepts > 0) & (accepts < 1))
        drawn[label] = (accepts[kept][::-1], 100 * rejects[kept][::-1])
    chart = curves(drawn, "false-accept rate", "false-reject rate, %")
    chart.update_layout(xaxis={"type": "log", "dtick": 1}, hovermode="closest")
    rows: list[Row] = [
        [label, share(counts.equal_error_rate, 2)] for label, counts in found.items()
    ]
    columns = ("Network", "Equal error rate")
    return Chart(
        "False rejects against false accepts",
        chart,
        "Each point is a threshold: the share of pairs of two people that it accepts, and of one"
        " person that it rejects. Lower is better.",
        Table("Equal error rates", columns, rows),
        log_axes=("yaxis",),
    )


def _threshold_table(
    found: Sequence[tuple[ScoredNetwork, ScoreDistribution, Sequence[OperatingThreshold]]],
) -> Table:
    rows: list[Row] = []
    for network, _, thresholds in found:
        for threshold in thresholds:
            name = f"{network.label}, {threshold.far:g}"
            few = Cell("too few pairs") if threshold.cosine is None else None
            rates = (threshold.tar, threshold.tar_low, threshold.tar_high)
            rows.append(
                [
                    name,
                    few or number(threshold.cosine, "{:.4f}"),
                    *(share(rate, 2) for rate in rates),
                    number(threshold.impostor_pairs),
                    number(threshold.genuine_pairs),
                ]
            )
    columns = (
        *("Network, false-accept rate", "Cosine", "True-accept rate", "Low", "High"),
        *("Pairs of two people", "Pairs of one person"),
    )
    return Table("Operating thresholds", columns, rows)

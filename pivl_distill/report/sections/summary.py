"""Summary: what was trained on what, its scores and costs, and the files that are shipped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from export.manifest_schema import Artifact, Manifest
from pivl_distill.report.blocks import (
    NONE_TEXT,
    Block,
    Cell,
    Chart,
    Mark,
    Row,
    Table,
    Text,
    megabytes,
    number,
    share,
)
from pivl_distill.report.charts import figure, style
from pivl_distill.report.context import ReportContext
from pivl_distill.report.intervals import EXPLANATION, Interval, bootstrap_mean
from pivl_distill.report.networks import Network, ScoredNetwork
from pivl_distill.report.runs import ReportRun

TITLE = "Summary"
SCORES = {"mAP": "mAP", "Rank-1": "rank1", "Rank-5": "rank5", "Rank-10": "rank10", "mINP": "mINP"}
"""Column → key in run.json."""
TOLERANCE = 5e-4
"""Difference of mAP, as a share of 1, above which a score is not that of the run any more."""
MARKS: dict[str, Mark] = {"verified": "right", "failed": "wrong"}


def build(context: ReportContext) -> list[Block]:
    """Return tables of scores, costs and files, and a chart of mAP with intervals."""
    scored = {id(network.network): network for network in context.scored}
    found = [(network, scored.get(id(network))) for network in context.networks]
    blocks: list[Block] = [_trained(context.networks), _scores(found), Text(EXPLANATION)]
    blocks += [Text(reason, note=True) for reason in context.not_scored]
    blocks += [Text(text, note=True) for text in map(_changed, found) if text]
    if context.scored:
        blocks.append(_chart(context.scored))
    blocks.append(_costs(context.networks))
    exports = context.runs_of("export")
    blocks.append(_files(exports) if exports else Text("No export is among the runs.", note=True))
    return blocks


def _trained(networks: Sequence[Network]) -> Table:
    columns = ("Network", "Architecture", "Data", "Learned from", "Epochs", "Training time")
    rows: list[Row] = []
    for network in networks:
        run = network.run
        rows.append(
            (
                network.label,
                run.architecture,
                run.data.spec,
                run.supervision,
                number(run.config.get("stage2", {}).get("epochs")),
                number(training_seconds(run), "{:,.0f} s"),
            )
        )
    return Table("What was trained on what", columns, rows)


def training_seconds(run: ReportRun) -> float | None:
    """Return the time that run.json records; that of all stages of a teacher together."""
    seconds = run.summary.get("seconds")
    return sum(seconds.values()) if isinstance(seconds, dict) else seconds


def recorded_scores(network: Network) -> dict[str, Any]:
    """Return the scores that the network's own files record, under the keys of run.json."""
    if network.training is not None:
        return network.training.summary.get("retrieval") or {}
    manifest = network.run.manifest
    retrieval = None if manifest is None else manifest.artifacts[0].retrieval
    if retrieval is None:
        return {}
    return {
        "mAP": retrieval.exported_mAP,
        "rank1": retrieval.exported_rank1,
        "valid_queries": retrieval.queries,
        "camera_rule": retrieval.camera_rule,
    }


def _scores(found: Sequence[tuple[Network, ScoredNetwork | None]]) -> Table:
    rows = []
    for network, scored in found:
        recorded = recorded_scores(network)
        row: list[Cell | str] = [network.label]
        for column, key in SCORES.items():
            row.append(share(recorded.get(key)))
            if column in ("mAP", "Rank-1"):
                row.append(_interval(_values(scored, column)))
        row.append(number(recorded.get("valid_queries")))
        rule = recorded.get("camera_rule")
        row.append(NONE_TEXT if rule is None else "yes" if rule else "no: cameras are unknown")
        rows.append(row)
    columns = ["Network"]
    for column in SCORES:
        columns += [column, "95 % interval"] if column in ("mAP", "Rank-1") else [column]
    return Table("Scores on query and gallery", [*columns, "Queries", "Camera rule"], rows)


def _values(scored: ScoredNetwork | None, column: str) -> np.ndarray | None:
    """The values of each valid query whose mean is mAP or Rank-1."""
    if scored is None:
        return None
    if column == "mAP":
        return scored.valid_precision
    hits: np.ndarray = scored.scores.first_hit[scored.scores.valid] == 1
    return hits.astype(float)


def _interval(values: np.ndarray | None) -> Cell:
    if values is None:
        return Cell(NONE_TEXT)
    low, high = bootstrap_mean(values)
    return Cell(f"{100 * low:.1f} – {100 * high:.1f}")


def _changed(found: tuple[Network, ScoredNetwork | None]) -> str | None:
    """A sentence if what was scored now does not agree with the run's files."""
    network, scored = found
    recorded = recorded_scores(network).get("mAP")
    if scored is None or recorded is None:
        return None
    now = float(scored.valid_precision.mean())
    if abs(now - recorded) <= TOLERANCE:
        return None
    return (
        f"{network.label}: {scored.evaluation.path.name} has an mAP of {100 * now:.2f} % on"
        f" {scored.evaluation.spec}, but its run records {100 * recorded:.2f} %. Intervals and"
        " the section Retrieval are about the former."
    )


def _chart(scored: Sequence[ScoredNetwork]) -> Chart:
    from plotly.graph_objects import Scatter

    chart = figure("mAP, %", "", yaxis={"autorange": "reversed"}, showlegend=False)
    rows: list[Row] = []
    for index, network in enumerate(scored):
        mean = float(network.valid_precision.mean())
        interval = bootstrap_mean(network.valid_precision)
        rows.append((network.label, share(mean, 2), *(share(end, 2) for end in interval)))
        chart.add_trace(_point(Scatter, network.network, mean, interval, index))
    columns = ("Network", "mAP", "Low", "High")
    return Chart(
        "mAP with 95 % intervals",
        chart,
        f"One line per network, as scored now on {scored[0].evaluation.spec}.",
        Table("Numbers: mAP with 95 % intervals", columns, rows, folded=True),
        height_px=90 + 45 * len(scored),
    )


def _point(scatter: Any, network: Network, mean: float, interval: Interval, index: int) -> Any:
    return scatter(
        x=[100 * mean],
        y=[network.name],
        name=network.label,
        mode="markers",
        marker=style(index)["marker"],
        error_x={
            "type": "data",
            "symmetric": False,
            "array": [100 * (interval.high - mean)],
            "arrayminus": [100 * (mean - interval.low)],
            "color": style(index)["marker"]["color"],
        },
        hovertemplate="%{x:.2f} %",
    )


def _costs(networks: Sequence[Network]) -> Table:
    columns = (
        *("Network", "Parameters", "Multiply-adds", "File"),
        *("Latency, batch 1", "Latency, batch 32", "Checkpoint"),
    )
    rows: list[Row] = []
    for network in networks:
        manifest = network.exports[-1].manifest if network.exports else None
        checkpoint = network.run.checkpoint
        size = None if checkpoint is None else checkpoint.stat().st_size
        cells = [Cell(NONE_TEXT)] * 5 if manifest is None else _cost_cells(manifest)
        rows.append((network.label, *cells, megabytes(size)))
    return Table("Cost of the float32 file, with ONNX Runtime on a CPU", columns, rows)


def _cost_cells(manifest: Manifest) -> list[Cell]:
    reference = manifest.artifacts[0]
    return [
        number(manifest.cost.parameters),
        number(manifest.cost.macs),
        megabytes(reference.bytes),
        *(latency(reference, batch) for batch in (1, 32)),
    ]


def latency(artifact: Artifact, batch: int) -> Cell:
    """Return the cell of the median latency of a file at a batch size."""
    found = next((timed.median_ms for timed in artifact.latency if timed.batch == batch), None)
    return number(found, "{:.2f} ms")


def _files(exports: Sequence[ReportRun]) -> Table:
    columns = (
        *("File", "Precision", "Runs on", "Verdict", "Least cosine", "Budget"),
        *("Loss of mAP, points", "Budget", "Loss of Rank-1, points", "Budget"),
        *("Size", "Latency, batch 1", "Latency, batch 32"),
    )
    rows = [
        _file_row(run, artifact)
        for run in exports
        if run.manifest is not None
        for artifact in run.manifest.artifacts
    ]
    return Table("Files shipped, and the verdicts of the gate", columns, rows)


def _file_row(run: ReportRun, artifact: Artifact) -> list[Cell | str]:
    assert run.manifest is not None
    budget = run.manifest.budgets[artifact.precision]
    parity, retrieval = artifact.parity, artifact.retrieval
    verdict = artifact.status if artifact.failure is None else f"failed: {artifact.failure}"
    return [
        f"{run.name}/{artifact.file}",
        artifact.precision,
        artifact.runs_on,
        Cell(verdict, mark=MARKS.get(artifact.status)),
        number(None if parity is None else parity.min_cosine, "{:.6f}"),
        number(budget.min_cosine, "≥ {:g}"),
        number(None if retrieval is None else retrieval.mAP_loss_points, "{:.2f}"),
        number(budget.max_mAP_loss_points, "≤ {:g}"),
        number(None if retrieval is None else retrieval.rank1_loss_points, "{:.2f}"),
        number(budget.max_rank1_loss_points, "≤ {:g}"),
        megabytes(artifact.bytes),
        latency(artifact, 1),
        latency(artifact, 32),
    ]

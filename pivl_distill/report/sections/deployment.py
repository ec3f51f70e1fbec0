"""Deployment: accuracy against latency of every file, drift per precision, INT8 per layer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pivl_distill.errors import PivlError
from pivl_distill.report.blocks import (
    Block,
    Cell,
    Chart,
    ChartGrid,
    Heading,
    LeftOutError,
    Row,
    Table,
    Text,
    megabytes,
    number,
    share,
)
from pivl_distill.report.charts import COLOURS, SYMBOLS, figure
from pivl_distill.report.context import ReportContext
from pivl_distill.report.deployed import (
    MAX_DRIFT_CROPS,
    DeployedFile,
    deployed_files,
    drift,
    int8_sensitivity,
    pareto_front,
)
from pivl_distill.report.runs import ReportRun

TITLE = "Deployment"
BATCHES = (1, 32)
LISTED_LAYERS = 30
DRIFT_QUANTILES = (0.0, 0.01, 0.5)


def build(context: ReportContext) -> list[Block]:
    """Return the Pareto front of the workspace, drift and sensitivity of the last INT8 export."""
    files = deployed_files(context.workspace)
    if not files:
        raise LeftOutError("There is no export, neither among the runs nor in the workspace.")
    blocks: list[Block] = [Heading("Accuracy against latency"), *_pareto(files)]
    blocks += [Text(text, note=True) for text in _not_exported(context.workspace, files)]
    blocks += [Heading("Drift per precision"), _parity(files)]
    exports = [run for run in context.runs_of("export") if _has_reduced(run)]
    if not exports:
        text = "Drift per crop and INT8 per layer are left out: no run has a file in fp16 or INT8."
        return [*blocks, Text(text, note=True)]
    try:
        blocks.append(_drift(context, exports[-1]))
        blocks += [Heading("INT8 per layer"), _sensitivity(context, exports[-1])]
    except (LeftOutError, PivlError) as error:
        blocks.append(Text(f"The rest is left out: {error}", note=True))
    return blocks


def _has_reduced(run: ReportRun) -> bool:
    artifacts = () if run.manifest is None else run.manifest.artifacts
    return any(artifact.precision != "fp32" for artifact in artifacts)


def _pareto(files: Sequence[DeployedFile]) -> list[Block]:
    text = (
        "Every exported file of the workspace; the line joins those that no other file beats in"
        " both. Figures are those of the manifests, measured with ONNX Runtime on the CPU of the"
        " machine that exported: compare only files that were exported on the same one."
    )
    charts: list[Chart] = []
    rows: list[Row] = []
    fronts: dict[int, set[str]] = {}
    for batch in BATCHES:
        chart, fronts[batch] = _pareto_chart(files, batch)
        if chart is not None:
            charts.append(chart)
    for file in files:
        cells = [number(file.latency_ms(batch), "{:.2f} ms") for batch in BATCHES]
        front = [str(batch) for batch in BATCHES if file.name in fronts[batch]]
        rows.append(
            [
                file.name,
                file.network,
                file.artifact.precision,
                share(file.mean_ap, 2),
                *cells,
                megabytes(file.artifact.bytes),
                Cell(f"batch {' and '.join(front)}", mark="right") if front else Cell("no"),
            ]
        )
    columns = ("File", "Network", "Precision", "mAP", "Batch 1", "Batch 32", "Size", "On the front")
    return [Text(text), ChartGrid(charts), Table("Files of the workspace", columns, rows)]


def _pareto_chart(files: Sequence[DeployedFile], batch: int) -> tuple[Chart | None, set[str]]:
    from plotly.graph_objects import Scatter

    found = [
        (file, ms, file.mean_ap)
        for file in files
        if (ms := file.latency_ms(batch)) is not None and file.mean_ap is not None
    ]
    if not found:
        return None, set()
    latency, score = [ms for _, ms, _ in found], [100 * mean_ap for _, _, mean_ap in found]
    front = pareto_front(latency, score)
    chart = figure("median latency, ms", "mAP, %")
    chart.add_trace(
        Scatter(
            x=[latency[n] for n in front], y=[score[n] for n in front], name="Pareto front",
            mode="lines", line={"shape": "hv", "color": COLOURS[-1], "width": 2},
            hoverinfo="skip",
        )
    )  # fmt: skip
    networks = list(dict.fromkeys(file.network_name for file in files))
    for index, network in enumerate(networks):
        own = [n for n, (file, _, _) in enumerate(found) if file.network_name == network]
        marker = {"color": COLOURS[index % len(COLOURS)], "size": 10}
        chart.add_trace(
            Scatter(
                x=[latency[n] for n in own], y=[score[n] for n in own], name=network,
                mode="markers", text=[found[n][0].name for n in own],
                marker={**marker, "symbol": SYMBOLS[index % len(SYMBOLS)]},
                hovertemplate="%{text}<br>%{x:.2f} ms, %{y:.2f} %<extra></extra>",
            )
        )  # fmt: skip
    title = f"mAP against latency at batch {batch}"
    text = "Top left is best. One mark per file, one shape per network."
    return Chart(title, chart, text, log_axes=("xaxis",)), {found[n][0].name for n in front}


def _not_exported(workspace: Sequence[ReportRun], files: Sequence[DeployedFile]) -> list[str]:
    exported = {file.training.path for file in files if file.training is not None}
    names = [run.name for run in workspace if run.kind == "student" and run.path not in exported]
    if not names:
        return []
    return [f"Not exported, so without latency: {', '.join(names)}."]


def _parity(files: Sequence[DeployedFile]) -> Table:
    rows: list[Row] = [
        [
            file.name,
            file.artifact.precision,
            number(parity.min_cosine, "{:.6f}"),
            number(parity.mean_cosine, "{:.6f}"),
            number(parity.max_abs_difference, "{:.2g}"),
            number(len(file.artifact.float32_nodes)),
        ]
        for file in files
        if (parity := file.artifact.parity) is not None
    ]
    columns = (
        *("File", "Precision", "Least cosine", "Mean cosine", "Largest difference"),
        "Layers left in float32",
    )
    return Table("Features of each file against the checkpoint, of its manifest", columns, rows)


def _drift(context: ReportContext, export: ReportRun) -> Chart:
    """The distribution of 1 − cosine of each crop, per precision."""
    from plotly.graph_objects import Box

    test = next(
        (s.evaluation.test for s in context.require_scored() if export in s.network.exports), None
    )
    if test is None:
        raise LeftOutError(f"{export.name} is not scored, so its crops are not read.")
    chart = figure("", "1 − cosine with the float32 file", showlegend=False)
    chart.update_layout(yaxis={"type": "log", "dtick": 1, "exponentformat": "power"})
    rows: list[Row] = []
    for index, (file, cosines) in enumerate(drift(export, test).items()):
        lost = np.quantile(1 - cosines, [0, 0.05, 0.25, 0.5, 0.75, 0.95, 1]).clip(min=1e-12)
        chart.add_trace(
            Box(
                x=[file], name=file, lowerfence=lost[1:2], q1=lost[2:3], median=lost[3:4],
                q3=lost[4:5], upperfence=lost[5:6], marker_color=COLOURS[index % len(COLOURS)],
            )
        )  # fmt: skip
        quantiles = np.quantile(cosines, DRIFT_QUANTILES)
        rows.append([file, *(number(float(value), "{:.6f}") for value in quantiles)])
    columns = ("File", "Least cosine", "1 % of crops are below", "Median")
    return Chart(
        f"Drift of each precision of {export.name}",
        chart,
        f"Of {len(cosines):,} crops (at most {MAX_DRIFT_CROPS:,} of query and gallery each): box,"
        " quartiles; whiskers, 5 and 95 %. Lower is better.",
        Table(f"Numbers: drift of {export.name}", columns, rows, folded=True),
    )


def _sensitivity(context: ReportContext, export: ReportRun) -> Chart:
    from plotly.graph_objects import Bar

    found = int8_sensitivity(export, context.dataset)
    order = sorted(found, key=lambda name: -found[name])[:LISTED_LAYERS]
    kept = [name for name in found if name in order]
    chart = figure("layer, in the order of the graph", "relative squared error", showlegend=False)
    chart.add_trace(
        Bar(
            x=kept,
            y=[found[name] for name in kept],
            marker_color=COLOURS[0],
            hovertemplate="%{x}<br>%{y:.3g}<extra></extra>",
        )
    )
    chart.update_layout(
        xaxis={"showticklabels": False, "type": "category"}, yaxis={"exponentformat": "power"}
    )
    rows: list[Row] = [[name, number(found[name], "{:.3g}")] for name in order]
    cut = "" if len(found) == len(kept) else f" The {len(kept)} largest of {len(found)} layers."
    return Chart(
        f"Error of the features of {export.name} if one layer alone is INT8",
        chart,
        f"Squared error relative to the variance of the features over training crops.{cut}",
        Table(f"Numbers: INT8 per layer of {export.name}", ("Layer", "Error"), rows, folded=True),
        log_axes=("yaxis",),
    )

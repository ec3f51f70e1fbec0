"""Training: curves of all that runs record per epoch, one chart per quantity."""

from __future__ import annotations

from collections.abc import Sequence

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
)
from pivl_distill.report.charts import curves, thinned
from pivl_distill.report.context import ReportContext
from pivl_distill.report.runs import ReportRun

TITLE = "Training"
STAGES = {
    "prompts": "Stage 1: prompts",
    "start": "Start of the student: teacher's embeddings alone",
    "reid": "Stage 2: network",
}
"""Value of `stage` in metrics.jsonl → heading."""
LOSSES = {
    "identity": "Loss: identity",
    "part": "Loss: part prompts",
    "triplet": "Loss: triplet",
    "image_to_text": "Loss: image to text",
    "align": "Loss: alignment with part texts",
    "parts": "Loss: part classification",
    "embedding": "Loss: teacher's embedding",
    "anchors": "Loss: anchors",
    "relation": "Loss: relation",
    "relaxed_contrastive": "Loss: relaxed contrastive",
    "logits": "Loss: teacher's logits",
}
OTHERS = {
    "learning_rate": "Learning rate",
    "gradient_norm": "Gradient norm",
    "val_mAP": "Validation mAP",
    "val_rank1": "Validation Rank-1",
    "accuracy": "Accuracy on training batches",
    "feature_spread": "Spread of features",
    "crops_per_s": "Crops per second",
}
"""Key in metrics.jsonl → title; keys that are in neither table are titled by their name."""
KEYS = ("stage", "epoch")
"""Say what a line is about; they are not measurements."""
Curve = tuple[list[int], list[float]]


def build(context: ReportContext) -> list[Block]:
    """Return a grid of charts for each stage; each chart has one curve per run."""
    runs = [run for run in context.runs if run.metrics]
    if not runs:
        raise LeftOutError("None of the runs has a metrics.jsonl.")
    text = "One point per epoch, the mean over its steps. Each loss includes its weight."
    blocks: list[Block] = [Text(text)]
    for stage in dict.fromkeys(
        str(line.get("stage", "reid")) for run in runs for line in run.metrics
    ):
        charts = [_chart(runs, stage, key) for key in quantities(runs, stage)]
        blocks += [Heading(STAGES.get(stage, stage)), ChartGrid(charts)]
    return blocks


def quantities(runs: Sequence[ReportRun], stage: str) -> list[str]:
    """Return the keys that any run measured in a stage: losses first, in the order of `LOSSES`."""
    found = {
        key
        for run in runs
        for line in run.metrics
        if line.get("stage", "reid") == stage
        for key, value in line.items()
        if key not in KEYS and isinstance(value, int | float)
    }
    known = [*LOSSES, *OTHERS]
    return [key for key in known if key in found] + sorted(found - set(known))


def curve(run: ReportRun, stage: str, key: str) -> Curve:
    """Return epochs and values of one quantity, where it was measured."""
    lines = [line for line in run.metrics if line.get("stage", "reid") == stage and key in line]
    return [line["epoch"] for line in lines], [line[key] for line in lines]


def _chart(runs: Sequence[ReportRun], stage: str, key: str) -> Chart:
    found = {run: curve(run, stage, key) for run in runs}
    measured = {run.label: values for run, values in found.items() if values[0]}
    title, few = (LOSSES | OTHERS).get(key, key), min(len(x) for x, _ in measured.values()) < 3
    return Chart(
        title,
        curves({run.name: values for run, values in found.items()}, "epoch", "", markers=few),
        "One curve per run." if len(measured) > 1 else f"{next(iter(measured))}.",
        _table(f"Numbers: {title}, {STAGES.get(stage, stage)}", measured),
        log_axes=("xaxis", "yaxis"),
        height_px=300,
    )


def _table(caption: str, found: dict[str, Curve]) -> Table:
    epochs = sorted({epoch for x, _ in found.values() for epoch in x})
    shown = [epochs[place] for place in thinned(len(epochs))]
    values = {label: dict(zip(x, y, strict=True)) for label, (x, y) in found.items()}
    rows: list[Row] = [
        [number(epoch), *(number(by_epoch.get(epoch), "{:.5g}") for by_epoch in values.values())]
        for epoch in shown
    ]
    return Table(caption, ["Epoch", *found], rows, folded=True)

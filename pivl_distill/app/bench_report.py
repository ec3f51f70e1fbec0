"""What `pivl-distill bench` prints, writes and plots."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from export.manifest_schema import read_manifest
from pivl_distill.app.bench import EAGER, BenchReport, FileCost
from pivl_distill.app.chart import Point, check_matplotlib, plot_accuracy_against_latency
from pivl_distill.app.report import NOT_MEASURED, percent
from pivl_distill.console import summary, table
from pivl_distill.errors import PivlError
from pivl_distill.storage.files import write_json

LATENCY_COLUMNS = (
    *("", "device", "threads", "batch", "p50 ms", "p90 ms", "p99 ms"),
    *("crops/s", "against eager", "runs"),
)
COST_COLUMNS = ("", "precision", "file", "peak memory", "mAP")
NO_SCORES = "The manifest holds no mAP to plot; export again with --data."


@dataclass(frozen=True)
class BenchOutputs:
    """Files to write in addition to the printed tables."""

    json_file: Path | None = None
    plot: Path | None = None

    def check(self, folder: Path | None) -> None:
        """Raise PivlError, before the work, if the plot could not be drawn after it.

        `folder` is the export, whose manifest has the scores; None if there is none.
        """
        if self.plot is not None:
            check_matplotlib()
            if folder is None or not any(
                artifact.retrieval for artifact in read_manifest(folder).artifacts
            ):
                raise PivlError(NO_SCORES)

    def write(self, report: BenchReport) -> None:
        """Print the report and write the files."""
        print_bench(report)
        if self.json_file is not None:
            write_json(self.json_file, asdict(report))
        if self.plot is not None:
            plot_bench(report, self.plot)
            summary("Plot", {"file": self.plot})


def print_bench(report: BenchReport) -> None:
    """Print latency and throughput of every variant, then the other costs of each file."""
    eager = {(t.device, t.threads, t.batch): t.p50_ms for t in report.timings if t.name == EAGER}
    rows = []
    for t in report.timings:
        base = eager.get((t.device, t.threads, t.batch))
        speedup = "" if base is None else f"{base / t.p50_ms:.1f}×"
        times = (f"{ms:.2f}" for ms in (t.p50_ms, t.p90_ms, t.p99_ms))
        rate = f"{t.crops_per_second:,.0f}"
        rows.append((t.name, t.device, t.threads, t.batch, *times, rate, speedup, t.runs))
    table(f"{report.network}: latency", LATENCY_COLUMNS, rows)
    title = "Cost"
    if report.cost is not None:
        title += f": {report.cost.parameters:,} parameters, {report.cost.macs:,} multiply-adds"
    table(title, COST_COLUMNS, [_cells(file) for file in report.files])


def plot_bench(report: BenchReport, out: Path) -> None:
    """Plot mAP against latency at the first batch size and thread count, as PNG."""
    scores = {file.name: file.mAP for file in report.files}
    first = report.timings[0]
    points = [
        Point(f"{t.name}, {t.device}", t.p50_ms, score)
        for t in report.timings
        if (t.threads, t.batch) == (first.threads, first.batch)
        and (score := scores[t.name]) is not None
    ]
    if not points:
        raise PivlError(NO_SCORES)
    title = f"{report.network}: batch {first.batch}, {first.threads} threads"
    plot_accuracy_against_latency(points, title, out)


def _cells(cost: FileCost) -> tuple[str, ...]:
    return (
        cost.name,
        cost.precision,
        f"{cost.file_bytes / 1e6:.2f} MB",
        "" if cost.peak_bytes is None else f"{cost.peak_bytes / 1e6:,.0f} MB",
        NOT_MEASURED if cost.mAP is None else percent(cost.mAP),
    )

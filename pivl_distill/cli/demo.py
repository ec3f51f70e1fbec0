"""`pivl-distill demo`: the whole job on synthetic people, and a table that compares the results.

Teacher, plain student and taught student are each exported too, so that every row of the table has
the cost and the latency of the file that would be deployed.
"""

from __future__ import annotations

import time
from pathlib import Path

from export.exporter import ExportReport
from pivl_distill.cli.report import percent, print_student, print_teach
from pivl_distill.cli.sources import export_checkpoint, find_bank
from pivl_distill.config import StudentConfig, TeachConfig
from pivl_distill.console import summary, table
from students.distill import distill
from teachers.teach import teach

COLUMNS = ("", "mAP", "Rank-1", "parameters", "multiply-adds", "file", "batch 1", "batch 32")
TITLE = "Synthetic people, tier default; latency under ONNX Runtime on the CPU"


def run_demo() -> None:
    """Teach, train both students, export all three, compare."""
    start = time.monotonic()
    taught = teach(TeachConfig())
    print_teach(taught)
    _, data = find_bank(None, "part")
    plain = distill(StudentConfig(data=data, supervision="none"), None)
    print_student(plain)
    student = distill(StudentConfig(data=data), taught.bank)
    print_student(student)
    exports = {
        "teacher": _export(taught.teacher),
        "student, no bank": _export(plain.student),
        "student, bank": _export(student.student),
    }
    rows = [_row(name, report, exported=False) for name, report in exports.items()]
    rows.append(_row("exported student", exports["student, bank"], exported=True))
    table(TITLE, COLUMNS, rows)
    made = {
        "prompt bank": taught.bank,
        "teacher": taught.teacher,
        "students": f"{plain.student}, {student.student}",
        "exported student": exports["student, bank"].onnx_path,
        "manifest": exports["student, bank"].manifest_path,
        "time": f"{(time.monotonic() - start) / 60:.1f} minutes",
    }
    summary("Made", made)


def _export(checkpoint: Path) -> ExportReport:
    return export_checkpoint(checkpoint, spec=None, out=None)


def _row(name: str, report: ExportReport, *, exported: bool) -> list[str]:
    """One line of the table; every row is timed as its exported file under ONNX Runtime."""
    cost, artifact = report.manifest.cost, report.manifest.artifact(report.onnx_path.name)
    scores = artifact.retrieval
    if scores is None:
        raise ValueError("only a verified export has figures")
    mean_ap = scores.exported_mAP if exported else scores.checkpoint_mAP
    rank1 = scores.exported_rank1 if exported else scores.checkpoint_rank1
    return [
        name,
        percent(mean_ap),
        percent(rank1),
        f"{cost.parameters:,}",
        f"{cost.macs / 1e6:.1f} M",
        f"{artifact.bytes / 1e6:.2f} MB",
        *(f"{latency.median_ms:.1f} ms" for latency in artifact.latency),
    ]

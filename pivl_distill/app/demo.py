"""`pivl-distill demo`: run every step on synthetic people and compare the results in a table.

One student learns from labels alone, one from the prompt bank, and one by the default recipe, which
adds the teacher's embeddings. All are exported, so that every row shows cost and latency of the
deployed file. The last student is also exported in fp16 and INT8, verified against the default
budgets, and scored under corruptions. At the end, a page about all of them is written
(`pivl-distill report`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from export.exporter import ExportError, ExportReport
from export.int8 import INT8_FILES
from pivl_distill.app.export_run import ExportOptions, export_checkpoint
from pivl_distill.app.report import percent, print_student, print_teach
from pivl_distill.config import DataSettings, DeviceChoice, StudentConfig, TeachConfig
from pivl_distill.console import summary, table
from pivl_distill.runs.run import check_run_folder
from pivl_distill.storage.filenames import FP16_FILE, FP32_FILE
from students.distill import train_student
from teachers.teach import teach

COLUMNS = ("", "mAP", "Rank-1", "parameters", "multiply-adds", "file", "batch 1", "batch 32")
PLAIN, BANK, DEFAULT = "student, labels alone", "student, bank", "student, default recipe"
EXPORTED = {
    "exported student": FP32_FILE,
    "exported student, fp16": FP16_FILE,
    "exported student, int8": INT8_FILES["cpu"],
}
"""Table row → file of the export of the student that was trained by the default recipe."""
DATA = "synthetic:small"
TITLE = "Synthetic people, tier small; latency under ONNX Runtime on the CPU"


WriteReport = Callable[[Sequence[Path]], Path | None]
"""Writes a page about run folders and returns its path; None if it cannot be written here."""


def run_demo(device: DeviceChoice = "auto", write_report: WriteReport = lambda _: None) -> None:
    """Train teacher and students, export all of them, print the comparison, and write the report.

    Raises ExportError, after printing, if a file of the last student exceeds its budget.
    """
    check_run_folder(None)
    start = time.monotonic()
    settings = TeachConfig(data=DataSettings(spec=DATA), device=device)
    taught = teach(settings)
    print_teach(taught)
    students = train_students(StudentConfig(data=settings.data, device=device), taught.bank)
    exports = {"teacher": _export(taught.teacher)}
    exports |= {name: _export(student) for name, student in students.items() if name != DEFAULT}
    exports[DEFAULT], failure = _export_all(students[DEFAULT])
    rows = [_row(name, report, FP32_FILE, exported=False) for name, report in exports.items()]
    rows += [_row(name, exports[DEFAULT], file, exported=True) for name, file in EXPORTED.items()]
    table(TITLE, COLUMNS, rows)
    folders = [taught.run, *(student.parent for student in students.values())]
    page = write_report([*folders, *(report.folder for report in exports.values())])
    made = {
        "prompt bank": taught.bank,
        "teacher": taught.teacher,
        "students": ", ".join(str(student) for student in students.values()),
        "exported student": ", ".join(str(exports[DEFAULT].folder / f) for f in EXPORTED.values()),
        "manifest": exports[DEFAULT].manifest_path,
        "report": page or "not written",
        "time": f"{(time.monotonic() - start) / 60:.1f} minutes",
    }
    summary("Made", made)
    if failure is not None:
        raise failure


def train_students(settings: StudentConfig, bank: Path) -> dict[str, Path]:
    """Train one student for each row of the table; return name → checkpoint.

    They share initial weights, budget, seed and data order.
    """
    changes: dict[str, tuple[dict[str, str], Path | None]] = {
        PLAIN: ({"supervision": "none", "teacher": "none"}, None),
        BANK: ({"teacher": "none"}, bank),
        DEFAULT: ({}, bank),
    }
    students = {}
    for name, (update, bank_file) in changes.items():
        report = train_student(settings.model_copy(update=update), bank_file)
        print_student(report)
        students[name] = report.student
    return students


def _export(checkpoint: Path) -> ExportReport:
    return export_checkpoint(checkpoint)


def _export_all(checkpoint: Path) -> tuple[ExportReport, ExportError | None]:
    """Export in every precision, with a robustness card.

    Returns a failure, so that all measurements are printed first.
    """
    try:
        options = ExportOptions(("fp16", "int8"), corrupted="query")
        report = export_checkpoint(checkpoint, options=options)
    except ExportError as error:
        return error.report, error
    return report, None


def _row(name: str, report: ExportReport, file: str, *, exported: bool) -> list[str]:
    """One row of the table; latency is that of the exported file under ONNX Runtime.

    A dash marks a value that was not measured because the file failed.
    """
    cost, artifact = report.manifest.cost, report.manifest.artifact(file)
    scores, cells = artifact.retrieval, ["–", "–"]
    if scores is not None:
        mean_ap = scores.exported_mAP if exported else scores.checkpoint_mAP
        rank1 = scores.exported_rank1 if exported else scores.checkpoint_rank1
        cells = [percent(mean_ap), percent(rank1)]
    latency = [f"{timed.median_ms:.1f} ms" for timed in artifact.latency]
    return [
        name,
        *cells,
        f"{cost.parameters:,}",
        f"{cost.macs / 1e6:.1f} M",
        f"{artifact.bytes / 1e6:.2f} MB",
        *(latency or ["–", "–"]),
    ]

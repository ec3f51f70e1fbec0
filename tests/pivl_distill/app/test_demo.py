"""`pivl-distill demo`: its table of results, with the stages replaced by stubs."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import SimpleNamespace

import pytest

from export.exporter import ExportError, ExportReport
from export.manifest_schema import read_manifest
from pivl_distill.app.export_run import ExportOptions
from pivl_distill.errors import VerificationError

demo = importlib.import_module("pivl_distill.app.demo")
EVERYTHING = (("fp16", "int8"), "query")
FLOAT32 = ((), None)
FP32_ONLY = ExportOptions()


@pytest.fixture
def exports(deployed_once: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple]]:
    """Replace the stages by stubs; returns each exported file, its precisions and corruption."""
    exported = []

    def export(path: Path, options: ExportOptions = FP32_ONLY) -> ExportReport:
        exported.append((path.name, (options.precisions, options.corrupted)))
        return ExportReport(deployed_once, read_manifest(deployed_once), verifier=None)

    taught = SimpleNamespace(bank=Path("bank"), teacher=Path("teacher"), run=Path("runs/teach-1"))
    names = ("runs/student-1/plain", "runs/student-2/bank", "runs/student-3/default")
    students = iter([SimpleNamespace(student=Path(name)) for name in names])
    monkeypatch.setattr(demo, "teach", lambda config: taught)
    monkeypatch.setattr(demo, "train_student", lambda config, bank: next(students))
    monkeypatch.setattr(demo, "print_teach", lambda report: None)
    monkeypatch.setattr(demo, "print_student", lambda report: None)
    monkeypatch.setattr(demo, "export_checkpoint", export)
    return exported


def rows(printed: str) -> dict[str, list[str]]:
    """Cells of the table rows, by the name in the first column."""
    names = ("teacher", demo.PLAIN, demo.BANK, demo.DEFAULT, *demo.EXPORTED)
    lines = [line.strip() for line in printed.splitlines() if " MB " in line]
    return {
        name: line.removeprefix(name).split()
        for name, line in zip(names, lines, strict=True)
        if line.startswith(name)
    }


def test_the_last_student_is_listed_in_every_precision(exports, deployed_once, capsys):
    demo.run_demo()
    assert exports == [
        *((name, FLOAT32) for name in ("teacher", "plain", "bank")),
        ("default", EVERYTHING),
    ]
    printed = capsys.readouterr().out
    found, manifest = rows(printed), read_manifest(deployed_once)
    for name, file in demo.EXPORTED.items():
        artifact = manifest.artifact(file)
        assert found[name][0] == f"{100 * artifact.retrieval.exported_mAP:.1f}"
        assert f"{artifact.bytes / 1e6:.2f}" in found[name]
        assert file in printed
    assert len(found) == 7


def test_the_report_is_about_all_runs_and_is_named(exports, deployed_once, capsys):
    told = []
    demo.run_demo(write_report=lambda runs: told.append(list(runs)) or Path("runs/report.html"))
    runs = [f"runs/{name}" for name in ("teach-1", "student-1", "student-2", "student-3")]
    assert [str(path) for path in told[0][:4]] == runs
    assert told[0][4:] == [deployed_once] * 4
    assert "runs/report.html" in capsys.readouterr().out


def test_a_file_over_budget_is_listed_before_the_demo_fails(
    exports, deployed_once, monkeypatch, capsys
):
    manifest = read_manifest(deployed_once)
    failed = {"status": "failed", "failure": "Over budget.", "latency": ()}
    artifacts = [
        artifact.model_copy(update=failed) if artifact.precision == "int8" else artifact
        for artifact in manifest.artifacts
    ]
    changed = manifest.model_copy(update={"artifacts": tuple(artifacts)})
    good = demo.export_checkpoint

    def export(path: Path, options: ExportOptions = FP32_ONLY) -> ExportReport:
        if options.precisions:
            raise ExportError(ExportReport(deployed_once, changed, verifier=None))
        return good(path, options)

    monkeypatch.setattr(demo, "export_checkpoint", export)
    with pytest.raises(VerificationError, match=r"model\.int8\.onnx: Over budget"):
        demo.run_demo()
    assert rows(capsys.readouterr().out)["exported student, int8"][-2:] == ["–", "–"]

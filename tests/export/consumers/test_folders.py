"""Folders of consumers: written, measured, recorded, replaced; what is in the way stays."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from export.accuracy import FeatureParity
from export.consumer_schema import ConsumerFolder, ConsumerRun
from export.consumers.base import Consumer, NetworkFile, NotRunnableError, RunOptions
from export.consumers.folders import add_consumers, check_folders
from export.consumers.graphs import NORMALISED
from export.manifest_schema import read_manifest, write_manifest
from pivl_distill.errors import PivlError, UnverifiedError, VerificationError
from pivl_distill.runtime.manifest_reader import read_manifest as read_for_inference
from pivl_distill.storage.files import sha256


@dataclass
class Copying(Consumer):
    """Copies the float32 file, and runs it as our Extractor does, or raises `error`."""

    runner: object
    error: PivlError | None = None
    name, title = "copying", "Copying"

    def write(self, export, folder):
        (folder / "deep").mkdir()
        target = folder / "deep" / "copy.onnx"
        target.write_bytes((export.path / "model.onnx").read_bytes())
        return (NetworkFile("deep/copy.onnx", "fp32"),)

    @contextmanager
    def open(self, export, folder, file, options):
        if self.error:
            raise self.error
        yield self.runner(folder / file.path, NORMALISED)

    def configure(self, export, folder, runs):
        (folder / "config.txt").write_text(f"{runs[0].status}")


def add(folder: Path, consumer: Consumer, trial) -> ConsumerFolder:
    (entry,) = add_consumers(folder, [consumer], trial, RunOptions())
    return entry


def test_a_folder_is_written_measured_and_recorded(exported_folder, onnx_runner, trial):
    path = exported_folder.path
    entry = add(path, Copying(onnx_runner), trial)
    assert entry.status == "verified"
    assert entry.reason is None
    assert entry.files == {
        "config.txt": sha256(path / "copying/config.txt"),
        "deep/copy.onnx": sha256(path / "model.onnx"),
    }
    assert (path / "copying/config.txt").read_text() == "verified"
    assert read_manifest(path).consumers == (entry,)
    assert read_manifest(path).artifacts == exported_folder.manifest.artifacts
    assert not list(path.glob(".*"))
    read_for_inference(path)  # the runtime accepts the manifest


def test_a_folder_is_replaced(exported_folder, onnx_runner, trial):
    path = exported_folder.path
    add(path, Copying(onnx_runner), trial)
    (path / "copying/old.txt").touch()
    again = add(path, Copying(onnx_runner, NotRunnableError("Not installed.")), trial)
    assert (again.status, again.reason) == ("unverified", "Not installed.")
    assert not (path / "copying/old.txt").exists()
    assert read_manifest(path).consumers == (again,)


def test_what_others_wrote_is_not_replaced(exported_folder, onnx_runner, trial):
    (exported_folder.path / "copying").mkdir()
    (exported_folder.path / "copying/mine.txt").touch()
    with pytest.raises(PivlError, match="is in the way"):
        add(exported_folder.path, Copying(onnx_runner), trial)
    assert (exported_folder.path / "copying/mine.txt").exists()


def test_a_file_that_the_consumer_cannot_open_has_failed(exported_folder, onnx_runner, trial):
    entry = add(exported_folder.path, Copying(onnx_runner, PivlError("No such operator.")), trial)
    assert (entry.status, entry.reason) == ("failed", "No such operator.")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("preprocessing_in_graph", True, "export without --bake-preprocessing"),
        ("cameras", 3, "export with --camera mean"),
    ],
)
def test_an_export_of_another_input_is_refused(
    field, value, message, exported_folder, onnx_runner, trial
):
    manifest = exported_folder.manifest
    changed = manifest.input.model_copy(update={field: value})
    write_manifest(exported_folder.path, manifest.model_copy(update={"input": changed}))
    with pytest.raises(PivlError, match=message):
        add(exported_folder.path, Copying(onnx_runner), trial)
    assert not (exported_folder.path / "copying").exists()


def test_a_changed_source_is_refused(exported_folder):
    (exported_folder.path / "model.fp16.onnx").write_bytes(b"")
    with pytest.raises(PivlError, match="is not the file its manifest describes"):
        exported_folder.sources()


def test_failed_sources_are_left_out_and_float32_is_required(exported_folder):
    manifest = exported_folder.manifest
    failed = [a.model_copy(update={"status": "failed"}) for a in manifest.artifacts]
    keep = manifest.with_artifacts([manifest.artifacts[0], *failed[1:]])
    assert set(type(exported_folder)(exported_folder.path, keep).sources()) == {"fp32"}
    with pytest.raises(PivlError, match=r"no verified model\.onnx"):
        type(exported_folder)(exported_folder.path, manifest.with_artifacts(failed)).sources()


def entry(name: str, *statuses: str) -> ConsumerFolder:
    runs = [
        ConsumerRun(file=f"{n}.onnx", precision="fp32", status=s, reason=f"It is {s}.")
        for n, s in enumerate(statuses)
    ]
    return ConsumerFolder(name=name, folder=name, files={}, runs=tuple(runs))


def test_the_worst_network_decides():
    check_folders([entry("a", "verified")])
    with pytest.raises(UnverifiedError, match=r"b: It is unverified\."):
        check_folders([entry("a", "verified"), entry("b", "verified", "unverified")])
    with pytest.raises(VerificationError, match=r"c: It is failed\."):
        check_folders([entry("b", "unverified"), entry("c", "unverified", "failed", "failed")])


@pytest.mark.parametrize("path", ["../model.onnx", "/etc/passwd", "a/../../b"])
def test_paths_that_lead_out_of_the_folder_are_refused(path):
    parity = FeatureParity(1, 1, 0)
    with pytest.raises(ValueError, match="leads out of its folder"):
        ConsumerRun(file=path, precision="fp32", status="verified", exact=parity)

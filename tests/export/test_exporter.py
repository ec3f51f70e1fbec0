"""The whole export: what is on disk afterwards, also when a check fails."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import export.exporter
from export.engines.description import Profile
from export.exporter import add_engine, export_model
from export.manifest import read_manifest, sha256
from export.verify import Budget
from pivl_distill.errors import PivlError, VerificationError

PROFILE = Profile.parse("1,8,16")


@pytest.fixture
def quick(monkeypatch, mobilenet):
    """The same export without waiting for a second graph and five seconds of timing."""
    _, made = mobilenet

    def copy(model, path: Path, *, normalize: bool) -> Path:
        assert not normalize
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(made.read_bytes())
        return path

    real = export.exporter.measure_latency
    monkeypatch.setattr(export.exporter, "write_onnx", copy)
    monkeypatch.setattr(
        export.exporter,
        "measure_latency",
        lambda session, size_hw, batch: real(session, size_hw, batch, max_repeats=3),
    )


def test_a_normalised_export_end_to_end(mobilenet, query, gallery, tmp_path):
    model, _ = mobilenet
    source = tmp_path / "student.safetensors"
    source.write_bytes(b"weights")
    out = tmp_path / "out"
    report = export_model(
        model, out, query=query, gallery=gallery, normalize=True, source=source, threads=1
    )
    manifest = read_manifest(out)
    assert manifest == report.manifest
    assert manifest.failure is None
    assert manifest.output.l2_normalised
    assert manifest.output.dim == 1280
    assert manifest.artifacts == {"model.onnx": sha256(out / "model.onnx")}
    assert manifest.source == {"student.safetensors": sha256(source)}
    assert [latency.batch for latency in manifest.latency] == [1, 32]
    assert manifest.parity is not None
    assert manifest.parity.min_cosine > 0.9999
    assert sorted(p.name for p in out.iterdir()) == ["manifest.json", "model.onnx"]


@pytest.mark.usefixtures("quick")
def test_over_budget_keeps_files_and_records_the_failure(mobilenet, query, gallery, tmp_path):
    budget = Budget(min_cosine=2.0)
    with pytest.raises(VerificationError, match=r"budget 2\.0") as error:
        export_model(mobilenet[0], tmp_path, query=query, gallery=gallery, budget=budget)
    manifest = read_manifest(tmp_path)
    assert manifest.failure == str(error.value)
    assert manifest.parity is not None
    assert manifest.retrieval is not None
    assert manifest.latency == ()
    assert manifest.budget == budget
    assert (tmp_path / "model.onnx").is_file()


@pytest.mark.usefixtures("quick")
def test_teaching_left_in_the_graph_is_recorded(exported, query, gallery, tmp_path):
    model, _ = exported("resnet18")  # whose graph is replaced by another network's
    with pytest.raises(VerificationError, match="but the bare network"):
        export_model(model, tmp_path, query=query, gallery=gallery)
    manifest = read_manifest(tmp_path)
    assert "but the bare network" in (manifest.failure or "")
    assert manifest.parity is None


@pytest.mark.usefixtures("quick")
def test_without_tensorrt_the_onnx_export_is_complete(
    mobilenet, query, gallery, tmp_path, monkeypatch
):
    for module in ("tensorrt", "tensorrt_rtx_bindings"):
        monkeypatch.setitem(sys.modules, module, None)
    report = export_model(mobilenet[0], tmp_path, query=query, gallery=gallery)
    kept = re.escape(f"The ONNX file is kept: {tmp_path / 'model.onnx'}.")
    for library in ("tensorrt", "tensorrt-rtx"):
        with pytest.raises(PivlError, match=rf"not installed\. .*{kept}$"):
            add_engine(report, library, PROFILE)
    assert read_manifest(tmp_path).failure is None
    assert len(read_manifest(tmp_path).latency) == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["manifest.json", "model.onnx"]


@pytest.mark.usefixtures("quick")
def test_engines_join_the_manifest(mobilenet, query, gallery, tmp_path, monkeypatch):
    def build(onnx_path, library, profile, *, workspace_bytes):
        assert (profile, workspace_bytes) == (PROFILE, 1 << 20)
        path = onnx_path.with_name(f"model.{library}.engine")
        path.write_bytes(library.encode())
        return path, SimpleNamespace(engine_sha256=sha256(path))

    monkeypatch.setattr(export.exporter, "build_engine", build)
    monkeypatch.setattr(
        export.exporter, "read_back", lambda path: path.name == "model.tensorrt.engine"
    )
    report = export_model(mobilenet[0], tmp_path, query=query, gallery=gallery)
    first = add_engine(report, "tensorrt", PROFILE, workspace_bytes=1 << 20)
    second = add_engine(report, "tensorrt-rtx", PROFILE, workspace_bytes=1 << 20)
    assert (first.loads, second.loads) == (True, False)
    artifacts = read_manifest(tmp_path).artifacts
    assert artifacts == {
        path.name: sha256(path) for path in tmp_path.iterdir() if path.suffix != ".json"
    }
    assert len(artifacts) == 3


@pytest.mark.usefixtures("quick")
def test_an_engine_that_does_not_read_back_stays_out_of_the_manifest(
    mobilenet, query, gallery, tmp_path, monkeypatch
):
    def damaged(path):
        raise PivlError("cannot be loaded.")

    monkeypatch.setattr(
        export.exporter, "build_engine", lambda path, *args, **kwargs: (path, SimpleNamespace())
    )
    monkeypatch.setattr(export.exporter, "read_back", damaged)
    report = export_model(mobilenet[0], tmp_path, query=query, gallery=gallery)
    with pytest.raises(PivlError, match=r"cannot be loaded\. The ONNX file is kept"):
        add_engine(report, "tensorrt", PROFILE)
    assert list(read_manifest(tmp_path).artifacts) == ["model.onnx"]

"""Engines of an export: verified where they run, unverified elsewhere, removed if unloadable."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import export.engine_exporter
from export.engine_exporter import add_engine, check_engines
from export.engines.engine_info import BatchProfile, Gpu
from export.loading import load_exported
from export.manifest_schema import read_manifest
from export.onnx_inference import run_session
from pivl_distill.errors import PivlError, UnverifiedError, VerificationError
from pivl_distill.runtime.onnx_session import open_session
from pivl_distill.storage.files import sha256

ALL = ("fp32", "fp16", "int8")
FILES = ["model.onnx", "model.fp16.onnx", "model.int8.onnx", "model.int8.trt.onnx"]
PROFILE = BatchProfile.parse("1,8,16")


@pytest.fixture
def built(monkeypatch) -> list[str]:
    """Replace the builder by a copy; the fixture lists the ONNX files it was called with."""
    built_from = []

    def build(onnx_path, library, profile, *, workspace_bytes):
        assert (profile, workspace_bytes) == (PROFILE, 1 << 20)
        built_from.append(onnx_path.name)
        stem = onnx_path.name.removesuffix(".onnx").removesuffix(".trt")
        path = onnx_path.with_name(f"{stem}.{library}.engine")
        path.write_bytes(onnx_path.read_bytes())
        return path, None

    monkeypatch.setattr(export.engine_exporter, "build_engine", build)
    monkeypatch.setattr(export.engine_exporter, "check_engine_loads", lambda path: False)
    return built_from


@pytest.fixture
def gpu(built, monkeypatch) -> None:
    """Simulate a GPU: engines run the ONNX file that they were built from."""

    class Runner:
        def __init__(self, path: Path) -> None:
            self.onnx_path = path.with_suffix(".onnx")
            self.onnx_path.write_bytes(path.read_bytes())

        def __call__(self, *inputs):
            return run_session(open_session(self.onnx_path), *inputs)

    monkeypatch.setattr(export.engine_exporter, "check_engine_loads", lambda path: True)
    monkeypatch.setattr(Gpu, "current", lambda: Gpu(name="L4", compute_capability="8.9"))
    monkeypatch.setattr("export.loading.EngineRunner", Runner)


def build_all(report, library="tensorrt-rtx"):
    return [
        add_engine(report, precision, library, PROFILE, workspace_bytes=1 << 20)
        for precision in ALL
    ]


def test_engines_are_unverified_without_a_gpu(export_small, built, tmp_path):
    report = export_small(precisions=ALL)
    engines = build_all(report)
    assert built == ["model.onnx", "model.fp16.onnx", "model.int8.trt.onnx"]
    manifest = read_manifest(tmp_path / "out")
    assert manifest.artifacts == report.manifest.artifacts + tuple(e.artifact for e in engines)
    for precision, engine in zip(ALL, engines, strict=True):
        artifact = engine.artifact
        assert (artifact.file, artifact.sha256) == (engine.path.name, sha256(engine.path))
        assert artifact.bytes == engine.path.stat().st_size
        assert (artifact.kind, artifact.runs_on) == ("tensorrt-rtx", "tensorrt")
        assert (artifact.precision, artifact.status) == (precision, "unverified")
        assert (artifact.min_batch, artifact.max_batch) == (1, 16)
        assert artifact.golden_vector is artifact.parity is artifact.retrieval is None
    with pytest.raises(
        UnverifiedError, match=r"model\.tensorrt-rtx\.engine.* no GPU that"
    ) as error:
        check_engines(engines)
    assert error.value.exit_code == 4


@pytest.mark.usefixtures("gpu")
def test_engines_are_verified_on_a_gpu(export_small, tmp_path):
    engines = build_all(export_small(precisions=ALL), "tensorrt")
    manifest = read_manifest(tmp_path / "out")
    for engine, source in zip(engines, (FILES[0], FILES[1], FILES[3]), strict=True):
        artifact, onnx_file = manifest.artifact(engine.path.name), manifest.artifact(source)
        assert (artifact.kind, artifact.status) == ("tensorrt", "verified")
        measured = ("golden_vector_sha256", "parity", "retrieval", "thresholds", "float32_nodes")
        for name in measured:
            assert getattr(artifact, name) == getattr(onnx_file, name)
        model, forward = load_exported(engine.path)
        assert forward(model.preprocess(np.zeros((3, *model.size_hw, 3), np.uint8))).shape == (
            3,
            24,
        )
    check_engines(engines)


@pytest.mark.usefixtures("gpu")
def test_engine_with_other_features_fails(export_small, tmp_path, monkeypatch):
    report = export_small()
    monkeypatch.setattr(
        "export.loading.EngineRunner", lambda path: lambda images: images[:, 0, :24, 0]
    )
    engine = add_engine(report, "fp32", "tensorrt", PROFILE, workspace_bytes=1 << 20)
    assert read_manifest(tmp_path / "out").artifacts[-1].status == "failed"
    with pytest.raises(VerificationError, match=r"model\.tensorrt\.engine: ") as error:
        check_engines([engine])
    assert error.value.exit_code == 3


@pytest.mark.usefixtures("built")
def test_rebuilt_engine_replaces_its_manifest_entry(export_small, tmp_path):
    report = export_small()
    for _ in range(2):
        add_engine(report, "fp32", "tensorrt", PROFILE, workspace_bytes=1 << 20)
    files = [artifact.file for artifact in read_manifest(tmp_path / "out").artifacts]
    assert files == ["model.onnx", "model.tensorrt.engine"]


def test_onnx_export_is_complete_without_tensorrt(export_small, tmp_path, monkeypatch):
    for module in ("tensorrt", "tensorrt_rtx_bindings"):
        monkeypatch.setitem(sys.modules, module, None)
    report = export_small()
    notice = re.escape(f"The ONNX files are kept in {tmp_path / 'out'}.")
    for library in ("tensorrt", "tensorrt-rtx"):
        with pytest.raises(PivlError, match=rf"not installed\. .*{notice}$"):
            add_engine(report, "fp32", library, PROFILE)
    (artifact,) = read_manifest(tmp_path / "out").artifacts
    assert artifact.status == "verified"
    assert len(artifact.latency) == 2


@pytest.mark.usefixtures("built")
def test_engine_that_does_not_load_is_removed(export_small, tmp_path, monkeypatch):
    def damaged(path):
        raise PivlError("cannot be loaded.")

    monkeypatch.setattr(export.engine_exporter, "check_engine_loads", damaged)
    report = export_small()
    for built_before in (False, True):
        if built_before:
            with monkeypatch.context() as patch:
                patch.setattr(export.engine_exporter, "check_engine_loads", lambda path: False)
                add_engine(report, "fp32", "tensorrt", PROFILE, workspace_bytes=1 << 20)
        with pytest.raises(PivlError, match=r"cannot be loaded\. The ONNX files are kept"):
            add_engine(report, "fp32", "tensorrt", PROFILE, workspace_bytes=1 << 20)
        (artifact,) = read_manifest(tmp_path / "out").artifacts
        assert artifact.file == "model.onnx"
        assert not list((tmp_path / "out").glob("*.engine*"))


@pytest.mark.usefixtures("built")
def test_engine_is_unverified_on_an_unsupported_gpu(export_small, tmp_path, monkeypatch):
    """TensorRT-RTX builds engines there but cannot load them."""

    def unsupported(path):
        raise PivlError("cannot be loaded.")

    monkeypatch.setattr(export.engine_exporter, "check_engine_loads", unsupported)
    monkeypatch.setattr(Gpu, "current", lambda: Gpu(name="H100", compute_capability="9.0"))
    report = export_small()
    engine = add_engine(report, "fp32", "tensorrt-rtx", PROFILE, workspace_bytes=1 << 20)
    assert engine.artifact.status == "unverified"
    assert read_manifest(tmp_path / "out").artifacts[-1] == engine.artifact
    with pytest.raises(UnverifiedError) as error:
        check_engines([engine])
    assert error.value.exit_code == 4


def test_real_engines_of_every_precision(rtx, export_small, tmp_path):
    report = export_small(precisions=ALL)
    for precision in ALL:
        engine = add_engine(report, precision, "tensorrt-rtx", PROFILE)
        assert engine.path.name == f"model.{precision}.rtx.engine"
        assert engine.info.precision == engine.artifact.precision == precision
        assert engine.artifact.status == ("verified" if torch.cuda.is_available() else "unverified")
    assert len(read_manifest(tmp_path / "out").artifacts) == len(FILES) + len(ALL)

"""The whole export: what is on disk afterwards, also when a check fails."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

import export.exporter
from export.accuracy import DEFAULT_BUDGETS, AccuracyBudget
from export.engines.engine_info import BatchProfile, Gpu
from export.exporter import ExportError, add_engine, check_engines, export_model
from export.loading import load_exported
from export.manifest_schema import TestData, read_manifest
from export.onnx_inference import run_session
from pivl_distill.errors import PivlError, UnverifiedError, VerificationError
from pivl_distill.models.embedding import embed
from pivl_distill.runtime.onnx_session import open_session
from pivl_distill.storage.files import sha256

ALL = ("fp32", "fp16", "int8")
FILES = ["model.onnx", "model.fp16.onnx", "model.int8.onnx", "model.int8.trt.onnx"]
DATA = TestData(spec="folders:/people", name="people", fingerprint="3" * 64)
PROFILE = BatchProfile.parse("1,8,16")
LENIENT = {"int8": AccuracyBudget(0.95, 5.0, 10.0), "fp16": AccuracyBudget(0.999, 5.0, 10.0)}


@pytest.fixture(autouse=True)
def quick(monkeypatch) -> None:
    """Three timed runs instead of five seconds of them."""
    real = export.exporter.measure_latency
    monkeypatch.setattr(
        export.exporter,
        "measure_latency",
        lambda sessions, batch: real(sessions, batch, max_repeats=3),
    )


@pytest.fixture
def export_small(small, small_onnx, test_split, training, tmp_path, monkeypatch):
    """`export_small(...)` of the small network; its graph is copied, not traced again."""

    def copy(model, path, *, normalize, bake_preprocessing):
        assert not normalize
        assert not bake_preprocessing
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(small_onnx.read_bytes())
        return path

    monkeypatch.setattr(export.exporter, "write_onnx", copy)
    made = {"test": test_split, "calibration": training, "budgets": LENIENT}
    return lambda **options: export_model(small, tmp_path / "out", **(made | options))


def test_everything_in_the_graph_end_to_end(small, test_split, training, tmp_path):
    source = tmp_path / "student.safetensors"
    source.write_bytes(b"weights")
    out = tmp_path / "out"
    report = export_model(
        replace(small, pooling="average over the map"),
        out,
        test=test_split,
        calibration=training,
        precisions=ALL,
        normalize=True,
        bake_preprocessing=True,
        budgets=LENIENT,
        source=source,
        data=DATA,
        threads=1,
    )
    manifest = read_manifest(out)
    assert manifest == report.manifest
    assert sorted(p.name for p in out.iterdir()) == sorted([*FILES, "golden.png", "manifest.json"])
    assert [artifact.file for artifact in manifest.artifacts] == FILES
    assert [artifact.precision for artifact in manifest.artifacts] == ["fp32", "fp16"] + [
        "int8"
    ] * 2
    assert [artifact.runs_on for artifact in manifest.artifacts] == [
        "any",
        "any",
        "cpu",
        "tensorrt",
    ]
    assert manifest.output.l2_normalised
    assert manifest.output.dim == 24
    assert (manifest.input.layout, manifest.input.dtype) == ("NHWC", "uint8")
    assert manifest.input.preprocessing_in_graph
    assert manifest.source == {"student.safetensors": sha256(source)}
    assert manifest.golden_crop.sha256 == sha256(out / "golden.png")
    assert manifest.budgets == DEFAULT_BUDGETS | LENIENT
    assert (manifest.pooling, manifest.data) == ("average over the map", DATA)
    for file in FILES:
        domains = {entry.domain: entry.version for entry in onnx.load(out / file).opset_import}
        assert domains[""] == manifest.opset == 20
    vectors = set()
    for artifact in manifest.artifacts:
        assert (artifact.status, artifact.failure) == ("verified", None)
        assert artifact.sha256 == sha256(out / artifact.file)
        assert artifact.bytes == (out / artifact.file).stat().st_size
        assert np.linalg.norm(artifact.golden_vector) == pytest.approx(1, abs=1e-3)
        batches = [latency.batch for latency in artifact.latency]
        assert batches == ([] if artifact.runs_on == "tensorrt" else [1, 32])
        vectors.add(artifact.golden_vector_sha256)
    assert len(vectors) == len(FILES)  # each has its own
    for file in FILES:
        model, forward = load_exported(out / file)
        features = embed(model, test_split.query.crops, forward=forward)
        with torch.inference_mode():
            exact = small.network(small.preprocess(test_split.query.crops)).numpy()
        exact /= np.linalg.norm(exact, axis=1, keepdims=True)
        assert (features * exact).sum(axis=1).min() > 0.99


def test_float32_alone_is_the_default(export_small):
    (artifact,) = export_small().manifest.artifacts
    assert artifact.file == "model.onnx"


def test_int8_without_crops_is_a_mistake_of_the_caller(export_small):
    with pytest.raises(ValueError, match="calibrate"):
        export_small(precisions=ALL, calibration=None)


def test_over_budget_keeps_files_and_records_the_failure(export_small, tmp_path):
    budgets = {"fp32": AccuracyBudget(2.0, 0, 0)}
    with pytest.raises(ExportError, match="budget 2") as error:
        export_small(precisions=ALL, budgets=budgets)
    assert error.value.exit_code == 3
    manifest = read_manifest(tmp_path / "out")
    # What is made from a wrong file is not made at all.
    (artifact,) = manifest.artifacts
    assert artifact.status == "failed"
    assert artifact.failure in str(error.value)
    assert artifact.parity is not None
    assert artifact.latency == ()
    assert manifest == error.value.report.manifest
    assert (tmp_path / "out" / "model.onnx").is_file()


def test_what_was_proven_is_not_lost_if_the_next_file_cannot_be_made(
    export_small, tmp_path, monkeypatch
):
    def too_large(*_):
        raise PivlError("The weight 'w' is too large for half precision.")

    monkeypatch.setattr(export.exporter, "write_fp16", too_large)
    with pytest.raises(PivlError, match="too large"):
        export_small(precisions=ALL)
    (artifact,) = read_manifest(tmp_path / "out").artifacts
    assert (artifact.file, artifact.status) == ("model.onnx", "verified")


def test_a_failed_precision_leaves_the_others_verified(export_small, tmp_path):
    budgets = LENIENT | {"fp16": AccuracyBudget(2.0, 0, 0)}
    with pytest.raises(ExportError, match=r"model\.fp16\.onnx: Over budget"):
        export_small(precisions=ALL, budgets=budgets)
    statuses = {a.file: a.status for a in read_manifest(tmp_path / "out").artifacts}
    assert statuses.pop("model.fp16.onnx") == "failed"
    assert set(statuses.values()) == {"verified"}


def test_a_broken_calibration_is_not_shipped(export_small, tmp_path, monkeypatch):
    """Ranges of crops in 0..1 that were divided by 255 again: all far too small."""
    real = export.exporter.measure_ranges

    def shrunk(*arguments):
        return {name: (low / 255, high / 255) for name, (low, high) in real(*arguments).items()}

    monkeypatch.setattr(export.exporter, "measure_ranges", shrunk)
    with pytest.raises(ExportError, match=r"model\.int8\.onnx: Over budget") as error:
        export_small(precisions=["int8"], budgets={"int8": AccuracyBudget(0.999, 5.0, 10.0)})
    assert error.value.exit_code == 3
    fp32, cpu, tensorrt = read_manifest(tmp_path / "out").artifacts
    assert fp32.status == "verified"
    for artifact in (cpu, tensorrt):
        assert artifact.status == "failed"
        assert "layers in float32" in artifact.failure
        assert artifact.float32_nodes


def test_layers_are_kept_and_named_when_the_budget_asks_for_it(export_small, monkeypatch):
    """One tensor's range is far too wide, as after one strange crop; only its taker is hurt."""
    real = export.exporter.measure_ranges

    def with_outlier(path, spec, crops):
        ranges = real(path, spec, crops)
        return ranges | {widest(path): (-4000.0, 4000.0)}

    monkeypatch.setattr(export.exporter, "measure_ranges", with_outlier)
    report = export_small(precisions=["int8"], budgets={"int8": AccuracyBudget(0.99, 5.0, 10.0)})
    tensorrt = report.manifest.artifact("model.int8.trt.onnx")
    assert tensorrt.status == "verified"
    assert len(tensorrt.float32_nodes) == 1


def widest(path) -> str:
    """The input of the last convolution."""
    return [node for node in onnx.load(path).graph.node if node.op_type == "Conv"][-1].input[0]


@pytest.mark.usefixtures("export_small")
def test_teaching_left_in_the_graph_is_recorded(small, test_split, tmp_path):
    """The bare network is another one than the graph's."""
    other = replace(small, network=torch.nn.Sequential(small.network, torch.nn.Linear(24, 24)))
    with pytest.raises(ExportError, match="but the bare network"):
        export_model(other, tmp_path, test=test_split)
    (artifact,) = read_manifest(tmp_path).artifacts
    assert artifact.parity is None


@pytest.fixture
def built(monkeypatch) -> list[str]:
    """The ONNX files that engines were built from, by a builder that copies them."""
    asked = []

    def build(onnx_path, library, profile, *, workspace_bytes):
        assert (profile, workspace_bytes) == (PROFILE, 1 << 20)
        asked.append(onnx_path.name)
        stem = onnx_path.name.removesuffix(".onnx").removesuffix(".trt")
        path = onnx_path.with_name(f"{stem}.{library}.engine")
        path.write_bytes(onnx_path.read_bytes())
        return path, None

    monkeypatch.setattr(export.exporter, "build_engine", build)
    monkeypatch.setattr(export.exporter, "check_engine_loads", lambda path: False)
    return asked


@pytest.fixture
def gpu(built, monkeypatch) -> None:
    """A GPU whose engines compute what the ONNX files that they were built from say."""

    class Runner:
        def __init__(self, path: Path) -> None:
            self.onnx_path = path.with_suffix(".onnx")
            self.onnx_path.write_bytes(path.read_bytes())

        def __call__(self, *inputs):
            return run_session(open_session(self.onnx_path), *inputs)

    monkeypatch.setattr(export.exporter, "check_engine_loads", lambda path: True)
    monkeypatch.setattr(Gpu, "current", lambda: Gpu(name="L4", compute_capability="8.9"))
    monkeypatch.setattr("export.loading.EngineRunner", Runner)


def build_all(report, library="tensorrt-rtx"):
    return [
        add_engine(report, precision, library, PROFILE, workspace_bytes=1 << 20)
        for precision in ALL
    ]


def test_engines_that_cannot_run_here_are_unverified(export_small, built, tmp_path):
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
def test_engines_that_run_here_go_through_the_gate(export_small, tmp_path):
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
def test_an_engine_that_computes_something_else_fails(export_small, tmp_path, monkeypatch):
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
def test_an_engine_built_again_takes_its_old_place(export_small, tmp_path):
    report = export_small()
    for _ in range(2):
        add_engine(report, "fp32", "tensorrt", PROFILE, workspace_bytes=1 << 20)
    files = [artifact.file for artifact in read_manifest(tmp_path / "out").artifacts]
    assert files == ["model.onnx", "model.tensorrt.engine"]


def test_without_tensorrt_the_onnx_export_is_complete(export_small, tmp_path, monkeypatch):
    for module in ("tensorrt", "tensorrt_rtx_bindings"):
        monkeypatch.setitem(sys.modules, module, None)
    report = export_small()
    kept = re.escape(f"The ONNX files are kept in {tmp_path / 'out'}.")
    for library in ("tensorrt", "tensorrt-rtx"):
        with pytest.raises(PivlError, match=rf"not installed\. .*{kept}$"):
            add_engine(report, "fp32", library, PROFILE)
    (artifact,) = read_manifest(tmp_path / "out").artifacts
    assert artifact.status == "verified"
    assert len(artifact.latency) == 2


@pytest.mark.usefixtures("built")
def test_an_engine_that_does_not_read_back_stays_out_of_the_manifest(
    export_small, tmp_path, monkeypatch
):
    def damaged(path):
        raise PivlError("cannot be loaded.")

    monkeypatch.setattr(export.exporter, "check_engine_loads", damaged)
    report = export_small()
    for built_before in (False, True):
        if built_before:
            with monkeypatch.context() as patch:
                patch.setattr(export.exporter, "check_engine_loads", lambda path: False)
                add_engine(report, "fp32", "tensorrt", PROFILE, workspace_bytes=1 << 20)
        with pytest.raises(PivlError, match=r"cannot be loaded\. The ONNX files are kept"):
            add_engine(report, "fp32", "tensorrt", PROFILE, workspace_bytes=1 << 20)
        (artifact,) = read_manifest(tmp_path / "out").artifacts
        assert artifact.file == "model.onnx"
        assert not list((tmp_path / "out").glob("*.engine*"))


@pytest.mark.usefixtures("built")
def test_a_gpu_that_tensorrt_rtx_does_not_take_leaves_the_engine_unverified(
    export_small, tmp_path, monkeypatch
):
    """The library builds there, but would not load what it built."""

    def no_such_gpu(path):
        raise PivlError("cannot be loaded.")

    monkeypatch.setattr(export.exporter, "check_engine_loads", no_such_gpu)
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

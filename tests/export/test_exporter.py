"""The whole export: what is on disk afterwards, also when a check fails."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch

import export.exporter
from export.exporter import ExportError, add_engines, export_model
from export.loading import load_exported
from export.manifest import read_manifest, sha256
from export.verify import BUDGETS, Budget
from pivl_distill.embedding import embed
from pivl_distill.errors import PivlError

ALL = ("fp32", "fp16", "int8")
FILES = ["model.onnx", "model.fp16.onnx", "model.int8.onnx", "model.int8.trt.onnx"]
LENIENT = {"int8": Budget(0.95, 5.0, 10.0), "fp16": Budget(0.999, 5.0, 10.0)}


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
        small,
        out,
        test=test_split,
        calibration=training,
        precisions=ALL,
        normalize=True,
        bake_preprocessing=True,
        budgets=LENIENT,
        source=source,
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
    assert manifest.budgets == BUDGETS | LENIENT
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
    budgets = {"fp32": Budget(2.0, 0, 0)}
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


def test_a_failed_precision_leaves_the_others_verified(export_small, tmp_path):
    budgets = LENIENT | {"fp16": Budget(2.0, 0, 0)}
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
        export_small(precisions=["int8"], budgets={"int8": Budget(0.999, 5.0, 10.0)})
    assert error.value.exit_code == 3
    fp32, cpu, tensorrt = read_manifest(tmp_path / "out").artifacts
    assert fp32.status == "verified"
    for artifact in (cpu, tensorrt):
        assert artifact.status == "failed"
        assert "layers in float32" in artifact.failure
        assert artifact.kept_high


def test_layers_are_kept_and_named_when_the_budget_asks_for_it(export_small, monkeypatch):
    """One tensor's range is far too wide, as after one strange crop; only its taker is hurt."""
    real = export.exporter.measure_ranges

    def with_outlier(path, spec, crops):
        ranges = real(path, spec, crops)
        return ranges | {widest(path): (-4000.0, 4000.0)}

    monkeypatch.setattr(export.exporter, "measure_ranges", with_outlier)
    report = export_small(precisions=["int8"], budgets={"int8": Budget(0.99, 5.0, 10.0)})
    tensorrt = report.manifest.artifact("model.int8.trt.onnx")
    assert tensorrt.status == "verified"
    assert len(tensorrt.kept_high) == 1


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
def built(monkeypatch) -> list[tuple[str, str]]:
    """What engines were built from, by a builder that only writes a file."""
    asked = []

    def build(onnx_path, engine_path, trt):
        asked.append((onnx_path.name, engine_path.name))
        engine_path.write_bytes(b"plan of " + onnx_path.name.encode())
        return SimpleNamespace(engine_sha256=sha256(engine_path))

    monkeypatch.setattr(export.exporter, "find_tensorrt", lambda path: (None, "tensorrt-rtx"))
    monkeypatch.setattr(export.exporter, "build_engine", build)
    return asked


def test_engines_of_each_precision_join_the_manifest_unverified(export_small, built, tmp_path):
    report = add_engines(export_small(precisions=ALL))
    assert built == [
        ("model.onnx", "model.rtx.engine"),
        ("model.fp16.onnx", "model.fp16.rtx.engine"),
        ("model.int8.trt.onnx", "model.int8.rtx.engine"),
    ]
    manifest = read_manifest(tmp_path / "out")
    assert manifest == report.manifest
    for _, file in built:
        engine = manifest.artifact(file)
        assert (engine.kind, engine.runs_on) == ("tensorrt-rtx", "tensorrt")
        assert (engine.status, engine.golden_vector, engine.parity) == ("unverified", None, None)
        assert engine.sha256 == sha256(tmp_path / "out" / file)


def test_without_tensorrt_the_onnx_export_is_complete(export_small, tmp_path, monkeypatch):
    def none_installed(onnx_path):
        raise PivlError("TensorRT is not installed")

    monkeypatch.setattr(export.exporter, "find_tensorrt", none_installed)
    report = export_small()
    with pytest.raises(PivlError, match="not installed"):
        add_engines(report)
    (artifact,) = read_manifest(tmp_path / "out").artifacts
    assert artifact.status == "verified"
    assert len(artifact.latency) == 2

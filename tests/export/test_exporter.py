"""The complete export: its files and manifest, also if verification fails."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

import export.exporter
from export.accuracy import DEFAULT_BUDGETS, AccuracyBudget
from export.exporter import ExportError, export_model
from export.loading import load_exported
from export.manifest_schema import Artifact, TestData, read_manifest
from export.onnx_export import write_onnx
from pivl_distill.errors import PivlError
from pivl_distill.models.embedding import EmbeddingModel, embed, vector_space
from pivl_distill.retrieval.robustness import measure_robustness
from pivl_distill.storage.files import sha256

ALL = ("fp32", "fp16", "int8")
FILES = ["model.onnx", "model.fp16.onnx", "model.int8.onnx", "model.int8.trt.onnx"]
DATA = TestData(spec="folders:/people", name="people", fingerprint="3" * 64)


@pytest.mark.usefixtures("quick_latency")
def test_export_with_everything_in_the_graph(
    small, test_split, training, lenient_budgets, tmp_path
):
    source = tmp_path / os.fsdecode(b"studi\xe9.safetensors")
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
        budgets=lenient_budgets,
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
    assert manifest.source == {"studi\\udce9.safetensors": sha256(source)}
    assert manifest.golden_crop.sha256 == sha256(out / "golden.png")
    assert manifest.budgets == DEFAULT_BUDGETS | lenient_budgets
    assert (manifest.pooling, manifest.data) == ("average over the map", DATA)
    for file in FILES:
        domains = {entry.domain: entry.version for entry in onnx.load(out / file).opset_import}
        assert domains[""] == manifest.opset == 20
    check_verified_artifacts(out, manifest.artifacts)
    check_normalised_features(out, small, test_split.query.crops)


def check_verified_artifacts(out: Path, artifacts: tuple[Artifact, ...]) -> None:
    """Check that every file is verified and has its hash, its size and a golden vector."""
    vectors = set()
    for artifact in artifacts:
        assert (artifact.status, artifact.failure) == ("verified", None)
        assert artifact.sha256 == sha256(out / artifact.file)
        assert artifact.bytes == (out / artifact.file).stat().st_size
        assert np.linalg.norm(artifact.golden_vector) == pytest.approx(1, abs=1e-3)
        batches = [latency.batch for latency in artifact.latency]
        assert batches == ([] if artifact.runs_on == "tensorrt" else [1, 32])
        vectors.add(artifact.golden_vector_sha256)
    assert len(vectors) == len(FILES)  # every file has its own golden vector


def check_normalised_features(out: Path, source: EmbeddingModel, crops: np.ndarray) -> None:
    """Compare the features of every exported file with the normalised ones of torch."""
    for file in FILES:
        model, forward = load_exported(out / file)
        features = embed(model, crops, forward=forward)
        with torch.inference_mode():
            exact = source.network(source.preprocess(crops)).numpy()
        exact /= np.linalg.norm(exact, axis=1, keepdims=True)
        assert (features * exact).sum(axis=1).min() > 0.99


def test_only_float32_is_written_by_default(export_small):
    (artifact,) = export_small().manifest.artifacts
    assert artifact.file == "model.onnx"


def test_int8_requires_calibration_crops(export_small):
    with pytest.raises(ValueError, match="calibration"):
        export_small(precisions=ALL, calibration=None)


def test_file_over_budget_is_kept_and_its_failure_recorded(export_small, tmp_path):
    budgets = {"fp32": AccuracyBudget(2.0, 0, 0)}
    with pytest.raises(ExportError, match="budget 2") as error:
        export_small(precisions=ALL, budgets=budgets)
    assert error.value.exit_code == 3
    manifest = read_manifest(tmp_path / "out")
    # Nothing is derived from a failed file.
    (artifact,) = manifest.artifacts
    assert artifact.status == "failed"
    assert artifact.failure in str(error.value)
    assert artifact.parity is not None
    assert artifact.latency == ()
    assert manifest == error.value.report.manifest
    assert (tmp_path / "out" / "model.onnx").is_file()


def test_verified_file_stays_in_the_manifest_if_the_next_cannot_be_written(
    export_small, tmp_path, monkeypatch
):
    def too_large(*_):
        raise PivlError("The weight 'w' is too large for half precision.")

    monkeypatch.setattr(export.exporter, "write_fp16", too_large)
    with pytest.raises(PivlError, match="too large"):
        export_small(precisions=ALL)
    (artifact,) = read_manifest(tmp_path / "out").artifacts
    assert (artifact.file, artifact.status) == ("model.onnx", "verified")


def test_failed_precision_leaves_the_others_verified(export_small, lenient_budgets, tmp_path):
    budgets = lenient_budgets | {"fp16": AccuracyBudget(2.0, 0, 0)}
    with pytest.raises(ExportError, match=r"model\.fp16\.onnx: Over budget"):
        export_small(precisions=ALL, budgets=budgets)
    statuses = {a.file: a.status for a in read_manifest(tmp_path / "out").artifacts}
    assert statuses.pop("model.fp16.onnx") == "failed"
    assert set(statuses.values()) == {"verified"}


def test_wrong_calibration_fails_verification(export_small, tmp_path, monkeypatch):
    """The calibration images were divided by 255 twice, so all ranges are far too small."""
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


def test_sensitive_layer_stays_in_float32_and_is_recorded(export_small, monkeypatch):
    """The range of one tensor is far too wide; only the layer that takes it loses accuracy."""
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
def test_graph_that_is_not_the_bare_network_fails(small, test_split, tmp_path):
    """The graph is smaller than the network that it is compared with."""
    other = replace(small, network=torch.nn.Sequential(small.network, torch.nn.Linear(24, 24)))
    with pytest.raises(ExportError, match="but the bare network"):
        export_model(other, tmp_path, test=test_split)
    (artifact,) = read_manifest(tmp_path).artifacts
    assert artifact.parity is None


@pytest.mark.usefixtures("quick_latency")
def test_export_without_scores_says_so_in_the_manifest(small, test_split, tmp_path):
    unscored = replace(test_split, scored=False)
    report = export_model(small, tmp_path, test=unscored, threads=1)
    count = len(test_split.query) + len(test_split.gallery)
    assert report.manifest.not_measured is not None
    assert f"compared on {count} crops of the training split" in report.manifest.not_measured
    (artifact,) = read_manifest(tmp_path).artifacts
    assert (artifact.status, artifact.retrieval, artifact.thresholds) == ("verified", None, ())


def test_robustness_is_that_of_each_file_for_onnx_runtime(export_small, test_split, tmp_path):
    export_small(precisions=["int8"], corrupted="gallery")
    cards = {
        artifact.file: artifact.robustness for artifact in read_manifest(tmp_path / "out").artifacts
    }
    assert cards["model.int8.trt.onnx"] is None
    for file in ("model.onnx", "model.int8.onnx"):
        model, forward = load_exported(tmp_path / "out" / file)
        assert cards[file] == measure_robustness(model, test_split, forward, split="gallery")


def test_robustness_without_scores_is_refused_before_the_work(small, test_split, tmp_path):
    unscored = replace(test_split, scored=False)
    with pytest.raises(PivlError, match="remove --corruptions"):
        export_model(small, tmp_path / "out", test=unscored, corrupted="query")
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("quick_latency")
def test_every_precision_is_in_the_space_of_the_checkpoint(export_small, small):
    report = export_small(precisions=ALL)
    manifest = read_manifest(report.folder)
    space = vector_space(small)
    assert (manifest.vector_space, manifest.compatible_with) == (space.id, ())
    for file in FILES:
        properties = onnx.load(report.folder / file).metadata_props
        assert {p.key: p.value for p in properties}["vector_space"] == space.id


def test_the_graph_names_the_spaces_that_it_is_compatible_with(small, tmp_path):
    model = replace(small, compatible_with=("a" * 32,))
    graph = onnx.load(write_onnx(model, tmp_path / "model.onnx"))
    properties = {p.key: p.value for p in graph.metadata_props}
    assert json.loads(properties["compatible_with"]) == ["a" * 32]

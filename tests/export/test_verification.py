"""Verification runs each file and records its measurements, whether it passes or fails."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from export.accuracy import DEFAULT_BUDGETS, measure_reference
from export.cost import network_cost
from export.fp16 import write_fp16
from export.golden_crop import write_golden_crop
from export.onnx_export import write_onnx
from export.onnx_inference import run_session
from export.source import input_spec
from export.verification import Verifier
from pivl_distill.errors import PivlError
from pivl_distill.retrieval.thresholds import operating_thresholds
from pivl_distill.runtime.onnx_session import open_session
from pivl_distill.storage.files import sha256


@pytest.fixture(scope="module")
def verifier(small, test_split, tmp_path_factory) -> Verifier:
    return Verifier(
        spec=input_spec(small),
        reference=measure_reference(small, test_split, normalize=False),
        bare=network_cost(small.network, small.size_hw),
        golden_crop=write_golden_crop(tmp_path_factory.mktemp("golden"), small.size_hw),
        budgets=DEFAULT_BUDGETS,
    )


def write_edited(path, onnx_path, change):
    """Write a copy of an ONNX file with the weights of its first convolution changed."""
    model = onnx.load(onnx_path)
    conv = next(node for node in model.graph.node if node.op_type == "Conv")
    weight = next(i for i in model.graph.initializer if i.name == conv.input[1])
    weight.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(weight)), weight.name))
    onnx.save(model, path)
    return path


def test_correct_file_is_verified(verifier, small, small_onnx):
    artifact = verifier.verify(small_onnx, "fp32", "any")
    assert (artifact.status, artifact.failure) == ("verified", None)
    assert (artifact.file, artifact.kind, artifact.precision) == ("model.onnx", "onnx", "fp32")
    assert artifact.sha256 == sha256(small_onnx)
    assert artifact.bytes == small_onnx.stat().st_size
    assert artifact.parity.min_cosine > 0.999999
    assert artifact.latency == artifact.float32_nodes == ()


def test_golden_vector_is_computed_by_the_file(verifier, small, small_onnx, tmp_path):
    for path, precision in (
        (small_onnx, "fp32"),
        (write_fp16(small_onnx, tmp_path / "half.onnx"), "fp16"),
    ):
        artifact = verifier.verify(path, precision, "any")
        expected = run_session(open_session(path), small.preprocess(verifier.golden_crop[None]))[
            0
        ].numpy()
        vector = np.array(artifact.golden_vector, np.float32)
        np.testing.assert_array_equal(vector, expected)
        assert artifact.golden_vector_sha256 == hashlib.sha256(expected.astype("<f4")).hexdigest()


def test_thresholds_come_from_the_files_features(verifier, small, test_split, small_onnx):
    artifact = verifier.verify(small_onnx, "fp32", "any")
    assert [threshold.far for threshold in artifact.thresholds] == [1e-2, 1e-3, 1e-4]
    q, g = test_split.query, test_split.gallery
    with torch.inference_mode():
        features = [small.network(small.preprocess(store.crops)).numpy() for store in (q, g)]
    expected = operating_thresholds(*features, q.pids, g.pids, q.camids, g.camids)
    assert [t.genuine_pairs for t in artifact.thresholds] == [t.genuine_pairs for t in expected]
    # 120 impostor pairs support none of these rates.
    assert [t.cosine for t in artifact.thresholds] == [None] * 3


def test_file_with_other_features_fails_with_its_measurements(verifier, small_onnx, tmp_path):
    path = write_edited(tmp_path / "other.onnx", small_onnx, lambda weight: weight[::-1].copy())
    artifact = verifier.verify(path, "fp32", "any", float32_nodes=["n1"])
    assert artifact.status == "failed"
    assert artifact.failure.startswith("Over budget: minimum cosine")
    assert artifact.parity.min_cosine < DEFAULT_BUDGETS["fp32"].min_cosine
    assert artifact.retrieval is not None
    assert artifact.golden_vector is not None
    assert artifact.float32_nodes == ("n1",)


def test_budget_depends_on_the_precision(verifier, small_onnx, tmp_path):
    half = write_fp16(small_onnx, tmp_path / "half.onnx")
    strict = replace(DEFAULT_BUDGETS["fp16"], min_cosine=1.0)
    assert verifier.verify(half, "fp16", "any").status == "verified"
    strict_verifier = replace(verifier, budgets=DEFAULT_BUDGETS | {"fp16": strict})
    assert "budget 1" in strict_verifier.verify(half, "fp16", "any").failure


def test_non_finite_features_fail(verifier, small_onnx, tmp_path):
    path = write_edited(
        tmp_path / "nan.onnx", small_onnx, lambda weight: weight * np.float32(np.nan)
    )
    artifact = verifier.verify(path, "fp16", "any")
    assert artifact.status == "failed"
    assert "no finite vector" in artifact.failure
    assert artifact.golden_vector is None


def test_graph_of_another_network_fails_before_it_runs(verifier, small, tmp_path):
    larger = replace(small, network=torch.nn.Sequential(small.network, torch.nn.Linear(24, 24)))
    artifact = verifier.verify(write_onnx(larger, tmp_path / "larger.onnx"), "fp32", "any")
    assert "but the bare network" in artifact.failure
    assert artifact.parity is None


def test_file_that_cannot_be_loaded_fails(verifier, small_onnx, tmp_path):
    """It has an operator that ONNX Runtime does not know; its cost is that of the network."""
    model = onnx.load(small_onnx)
    relu = next(node for node in model.graph.node if node.op_type == "Relu")
    output = relu.output[0]
    relu.output[0] = "before"
    unknown = onnx.helper.make_node("Unknown", ["before"], [output], domain="nowhere")
    model.graph.node.insert(list(model.graph.node).index(relu) + 1, unknown)
    model.opset_import.append(onnx.helper.make_opsetid("nowhere", 1))
    onnx.save(model, tmp_path / "foreign.onnx")
    artifact = verifier.verify(tmp_path / "foreign.onnx", "fp32", "any")
    assert artifact.status == "failed"
    assert artifact.parity is None


def test_runtime_error_during_a_run_fails_the_file(verifier, small_onnx, monkeypatch):
    def stop(*_):
        raise PivlError("ONNX Runtime cannot run the graph: out of memory")

    monkeypatch.setattr("export.loading.run_session", stop)
    artifact = verifier.verify(small_onnx, "fp32", "any")
    assert artifact.status == "failed"
    assert "out of memory" in artifact.failure


def raise_out_of_memory(*_):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried 2 GiB.\nSee the documentation.")


class PendingFeatures:
    """Features of an asynchronous GPU run, whose error is raised when they are read."""

    cpu = raise_out_of_memory


@pytest.mark.parametrize(
    "load_forward",
    [
        raise_out_of_memory,
        lambda path: raise_out_of_memory,
        lambda path: lambda *_: PendingFeatures(),
    ],
    ids=["load", "run", "read"],
)
def test_torch_errors_while_running_fail_the_file(verifier, small_onnx, monkeypatch, load_forward):
    """The failure quotes the first line of the error, whether loading, running or reading fails."""
    monkeypatch.setattr("export.verification.load_forward", load_forward)
    artifact = verifier.verify(small_onnx, "fp32", "any")
    assert artifact.status == "failed"
    assert artifact.failure == "It could not be run here: CUDA out of memory. Tried 2 GiB."


@pytest.mark.parametrize(
    "name", ["embed_query_gallery", "compare_with_reference", "operating_thresholds"]
)
def test_programming_errors_are_not_failures_of_the_file(verifier, small_onnx, monkeypatch, name):
    def fail(*_):
        raise RuntimeError("The size of tensor a (3) must match the size of tensor b (4)")

    monkeypatch.setattr(f"export.verification.{name}", fail)
    with pytest.raises(RuntimeError, match="size of tensor a"):
        verifier.verify(small_onnx, "fp32", "any")


def test_unscored_crops_give_neither_scores_nor_thresholds(verifier, small, small_onnx, tmp_path):
    unscored = replace(verifier.reference.test, scored=False)
    reference = measure_reference(small, unscored, normalize=False)
    without = replace(verifier, reference=reference)
    artifact = without.verify(small_onnx, "fp32", "any")
    assert (artifact.status, artifact.retrieval, artifact.thresholds) == ("verified", None, ())
    assert artifact.parity == verifier.verify(small_onnx, "fp32", "any").parity
    noise = write_edited(tmp_path / "noise.onnx", small_onnx, lambda w: np.flip(w).copy())
    failed = without.verify(noise, "fp32", "any")
    assert failed.status == "failed"
    assert "minimum cosine" in failed.failure

"""The manifest round-trips, and other files are rejected."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest

from export.accuracy import DEFAULT_BUDGETS, FeatureParity, RetrievalComparison
from export.cost import Cost
from export.latency import Latency
from export.manifest_schema import (
    Artifact,
    GoldenCrop,
    InputSpec,
    Manifest,
    OutputSpec,
    TestData,
    installed_versions,
    read_manifest,
    sha256,
    write_manifest,
)
from manifest_edits import change_manifest
from pivl_distill.errors import PivlError
from pivl_distill.retrieval.thresholds import OperatingThreshold
from pivl_distill.runtime.manifest_reader import vector_sha256
from pivl_distill.storage.filenames import MANIFEST_FILE

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
VECTOR = np.array([0.1, -2.5, 1e-7], np.float32)


def make_artifact(**fields) -> Artifact:
    return Artifact(
        file="model.onnx",
        sha256="0" * 64,
        bytes=1000,
        kind="onnx",
        precision="fp32",
        runs_on="any",
        **fields,
    )


def make_manifest() -> Manifest:
    verified = make_artifact(
        status="verified",
        golden_vector=VECTOR.tolist(),
        golden_vector_sha256=vector_sha256(VECTOR),
        parity=FeatureParity(0.99995, 1.0, 1e-6),
        retrieval=RetrievalComparison(0.5, 0.5, 0.6, 0.6, 100),
        thresholds=(
            OperatingThreshold(1e-2, 0.7, 0.9, 0.8, 0.95, 5000, 100),
            OperatingThreshold(1e-3, None, None, None, None, 5000, 100),
        ),
        latency=(Latency(1, 1.5, 2.0, 100),),
        float32_nodes=("node_Conv_1",),
    )
    engine = make_artifact().model_copy(
        update={
            "file": "model.engine",
            "kind": "tensorrt",
            "runs_on": "tensorrt",
            "min_batch": 2,
            "max_batch": 64,
        }
    )
    return Manifest(
        name="student",
        pooling="class token",
        opset=20,
        data=TestData(spec="synthetic:tiny", name="synthetic", fingerprint="3" * 64),
        input=InputSpec(name="images", size_hw=(64, 32), mean=MEAN, std=STD),
        output=OutputSpec(name="features", dim=3, l2_normalised=False),
        golden_crop=GoldenCrop(file="golden.png", sha256="2" * 64),
        artifacts=(verified, engine),
        source={"model.safetensors": "1" * 64},
        budgets=DEFAULT_BUDGETS,
        cost=Cost(10, 20),
        versions=installed_versions(),
    )


def test_manifest_round_trip(tmp_path):
    path = write_manifest(tmp_path, make_manifest())
    assert path == tmp_path / MANIFEST_FILE
    assert read_manifest(tmp_path) == make_manifest()


def test_manifest_file_has_the_fields_that_a_runtime_needs(tmp_path):
    metadata = json.loads(write_manifest(tmp_path, make_manifest()).read_text())
    assert metadata["format"] == 2
    resizing = metadata["input"].pop("resizing")
    assert "by the caller" in resizing
    assert metadata["input"] == {
        "name": "images",
        "size_hw": [64, 32],
        "mean": list(MEAN),
        "std": list(STD),
        "colour_order": "RGB",
        "layout": "NCHW",
        "dtype": "float32",
        "preprocessing_in_graph": False,
        "min_batch": 1,
        "max_batch": None,
        "cameras": 0,
    }
    assert metadata["output"] == {"name": "features", "dim": 3, "l2_normalised": False}
    assert metadata["golden_crop"] == {"file": "golden.png", "sha256": "2" * 64}
    assert metadata["budgets"]["int8"]["max_mAP_loss_points"] == 1.0
    assert "torch" in metadata["versions"]
    assert (metadata["pooling"], metadata["opset"]) == ("class token", 20)
    assert metadata["data"] == {
        "spec": "synthetic:tiny",
        "name": "synthetic",
        "fingerprint": "3" * 64,
    }
    onnx, engine = metadata["artifacts"]
    assert onnx.keys() == engine.keys() == Artifact.model_fields.keys()
    assert onnx["thresholds"][0] == {
        "far": 1e-2,
        "cosine": 0.7,
        "tar": 0.9,
        "tar_low": 0.8,
        "tar_high": 0.95,
        "impostor_pairs": 5000,
        "genuine_pairs": 100,
    }
    assert onnx["thresholds"][1]["cosine"] is None
    assert (engine["status"], engine["golden_vector"]) == ("unverified", None)
    assert [(a["min_batch"], a["max_batch"]) for a in (onnx, engine)] == [(1, None), (2, 64)]


def test_golden_vector_round_trip_is_bit_exact(tmp_path):
    (artifact,) = json.loads(write_manifest(tmp_path, make_manifest()).read_text())["artifacts"][:1]
    read = np.array(artifact["golden_vector"], np.float32)
    assert read.tobytes() == VECTOR.tobytes()
    assert artifact["golden_vector_sha256"] == hashlib.sha256(VECTOR.tobytes()).hexdigest()
    changed = np.nextafter(VECTOR, np.float32(9))
    assert vector_sha256(changed) != artifact["golden_vector_sha256"]


def test_pooling_opset_and_data_are_optional(tmp_path):
    metadata = json.loads(write_manifest(tmp_path, make_manifest()).read_text())
    for name in ("pooling", "opset", "data"):
        del metadata[name]
    (tmp_path / MANIFEST_FILE).write_text(json.dumps(metadata))
    manifest = read_manifest(tmp_path)
    assert manifest.pooling is manifest.opset is manifest.data is None


def test_artifacts_are_found_by_file(tmp_path):
    assert make_manifest().artifact("model.engine").kind == "tensorrt"


def test_missing_and_invalid_manifests_raise(tmp_path):
    with pytest.raises(PivlError, match=r"has no manifest\.json"):
        read_manifest(tmp_path)
    path = write_manifest(tmp_path, make_manifest())
    metadata = json.loads(path.read_text())
    for text in ("{", json.dumps(metadata | {"format": 1}), json.dumps(metadata | {"unknown": 1})):
        path.write_text(text)
        with pytest.raises(PivlError, match="not a manifest of this version"):
            read_manifest(tmp_path)


def test_mistakes_in_a_manifest_are_listed_by_their_place(tmp_path):
    path = write_manifest(tmp_path, make_manifest())
    metadata = json.loads(path.read_text())
    metadata |= {"opset": "x", **{f"unknown{number}": 1 for number in range(9)}}
    path.write_text(json.dumps(metadata))
    with pytest.raises(PivlError, match=r"export again\.\n  opset: Input should be") as raised:
        read_manifest(tmp_path)
    lines = str(raised.value).splitlines()
    assert lines[2] == "  unknown0: Extra inputs are not permitted"
    assert lines[-1] == "  … and 5 more"
    assert len(lines) == 7


def test_sha256_of_a_file_longer_than_one_block(tmp_path):
    data = bytes(range(256)) * 5000
    (tmp_path / "file").write_bytes(data)
    assert sha256(tmp_path / "file") == hashlib.sha256(data).hexdigest()


def test_manifest_with_a_number_that_is_not_finite_is_neither_written_nor_read(tmp_path):
    broken = make_manifest()
    spec = broken.input.model_copy(update={"mean": (0.5, float("inf"), 0.5)})
    with pytest.raises(PivlError, match=r"not finite: input\.mean\.1 is inf"):
        write_manifest(tmp_path, broken.model_copy(update={"input": spec}))
    assert list(tmp_path.iterdir()) == []
    path = write_manifest(tmp_path, make_manifest())
    path.write_text(path.read_text().replace(f"{MEAN[0]},", "NaN,", 1))
    with pytest.raises(PivlError, match=r"is damaged \(input\.mean\.0 is nan\)"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("name", ["../model.onnx", "/model.onnx", "a/b", "a\\b", "", ".."])
def test_names_are_plain(deployed, name):
    for edit in (
        lambda manifest: manifest["artifacts"][0].update(file=name),
        lambda manifest: manifest["golden_crop"].update(file=name),
    ):
        with pytest.raises(PivlError, match="is not a manifest of this version"):
            read_manifest(change_manifest(deployed, edit))

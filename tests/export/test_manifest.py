"""The manifest is read back as it was written, and nothing else is taken for one."""

from __future__ import annotations

import hashlib
import json

import pytest

from export.cost import Cost
from export.latency import Latency
from export.manifest import (
    FILE_NAME,
    InputSpec,
    Manifest,
    OutputSpec,
    installed_versions,
    read_manifest,
    sha256,
    write_manifest,
)
from export.verify import Budget, Parity, RetrievalComparison
from pivl_distill.errors import PivlError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def a_manifest() -> Manifest:
    return Manifest(
        name="student",
        input=InputSpec(name="images", size_hw=(64, 32), mean=MEAN, std=STD),
        output=OutputSpec(name="features", dim=1280, l2_normalised=False),
        artifacts={"model.onnx": "0" * 64},
        source={"model.safetensors": "1" * 64},
        budget=Budget(),
        cost=Cost(10, 20),
        parity=Parity(0.99995, 1.0, 1e-6),
        retrieval=RetrievalComparison(0.5, 0.5, 0.6, 0.6),
        latency=(Latency(1, 1.5, 2.0, 100),),
        versions=installed_versions(),
    )


def test_round_trip(tmp_path):
    path = write_manifest(tmp_path, a_manifest())
    assert path == tmp_path / FILE_NAME
    assert read_manifest(tmp_path) == a_manifest()


def test_the_file_says_what_a_runtime_needs(tmp_path):
    facts = json.loads(write_manifest(tmp_path, a_manifest()).read_text())
    assert facts["input"]["colour_order"] == "RGB"
    assert facts["input"]["size_hw"] == [64, 32]
    assert facts["input"]["min_batch"] == 1
    assert facts["output"] == {"name": "features", "dim": 1280, "l2_normalised": False}
    assert facts["precision"] == "fp32"
    assert "torch" in facts["versions"]


def test_missing_broken_and_future_manifests(tmp_path):
    with pytest.raises(PivlError, match=r"has no manifest\.json"):
        read_manifest(tmp_path)
    path = write_manifest(tmp_path, a_manifest())
    facts = json.loads(path.read_text())
    for text in ("{", json.dumps(facts | {"format": 2}), json.dumps(facts | {"unknown": 1})):
        path.write_text(text)
        with pytest.raises(PivlError, match="not a manifest of this version"):
            read_manifest(tmp_path)


def test_sha256_of_a_file_longer_than_one_block(tmp_path):
    data = bytes(range(256)) * 5000
    (tmp_path / "file").write_bytes(data)
    assert sha256(tmp_path / "file") == hashlib.sha256(data).hexdigest()

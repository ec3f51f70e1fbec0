"""The model repository for Triton: its configuration in Triton's own protobuf, and its networks."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from export.consumers.base import ExportFolder, RunOptions
from export.consumers.folders import add_consumers
from export.consumers.triton import Triton, parse_configs
from export.manifest_schema import Artifact
from pivl_distill.errors import PivlError, VerificationError
from pivl_distill.runtime import Extractor

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def python() -> Path:
    """A Python that has tritonclient: ours, or that of `make consumers`."""
    for path in (Path(sys.executable), ROOT / "build" / "consumers" / "bin" / "python"):
        try:
            Triton().check_python(path)
        except PivlError:
            continue
        return path
    pytest.skip("tritonclient is not installed; make consumers installs it")


@pytest.fixture
def parse(python):
    return lambda path: parse_configs(python, [path])["configs"][0]


def with_engine(export: ExportFolder, max_batch: int) -> ExportFolder:
    """The export with a file that its manifest says to be an engine."""
    path = export.path / "model.fp16.engine"
    path.write_bytes(b"engine")
    engine = Artifact.from_file(path, "fp16", "tensorrt", kind="tensorrt", float32_nodes=())
    engine = engine.model_copy(update={"max_batch": max_batch})
    artifacts = [*export.manifest.artifacts, engine]
    return ExportFolder(export.path, export.manifest.with_artifacts(artifacts))


def test_configurations_are_triton_s_and_fit_the_files(exported_folder, parse, tmp_path):
    Triton().write(exported_folder, tmp_path)
    models = sorted(path.name for path in (tmp_path / "repo").iterdir())
    assert models == ["small", "small_fp16", "small_int8"]
    for name in models:
        config = parse(tmp_path / "repo" / name / "config.pbtxt")
        session = ort.InferenceSession(tmp_path / "repo" / name / "1" / "model.onnx")
        (given,), (returned,) = session.get_inputs(), session.get_outputs()
        assert config == {
            "name": name,
            "backend": "onnxruntime",
            "max_batch_size": 64,
            "input": [{"name": given.name, "data_type": "TYPE_UINT8", "dims": ["64", "32", "3"]}],
            "output": [{"name": returned.name, "data_type": "TYPE_FP32", "dims": ["24"]}],
            "dynamic_batching": {
                "preferred_batch_size": [8, 32],
                "max_queue_delay_microseconds": "1000",
            },
        }
        assert (given.type, given.shape[1:]) == ("tensor(uint8)", [64, 32, 3])
        assert returned.shape[1:] == [24]


def test_a_misspelt_field_is_found_by_the_protobuf(exported_folder, parse, tmp_path):
    Triton().write(exported_folder, tmp_path)
    path = tmp_path / "repo" / "small" / "config.pbtxt"
    path.write_text(path.read_text().replace("max_batch_size", "max_batchsize"))
    with pytest.raises(VerificationError, match=r"refuses it: .*max_batchsize"):
        parse(path)


@pytest.mark.parametrize(("profile", "preferred"), [(4, []), (16, [8]), (100, [8, 32])])
def test_batches_stay_within_the_profile_of_an_engine(
    exported_folder, parse, tmp_path, profile, preferred
):
    files = Triton().write(with_engine(exported_folder, profile), tmp_path)
    assert files[-1].path == "repo/small_fp16_tensorrt/1/model.plan"
    config = parse(tmp_path / "repo" / "small_fp16_tensorrt" / "config.pbtxt")
    assert config["platform"] == "tensorrt_plan"
    assert config["max_batch_size"] == min(profile, 64)
    assert config["dynamic_batching"].get("preferred_batch_size", []) == preferred
    assert config["input"][0]["dims"] == ["3", "64", "32"]
    assert (tmp_path / "repo/small_fp16_tensorrt/1/model.plan").read_bytes() == b"engine"


def test_a_changed_engine_is_refused(exported_folder, tmp_path):
    export = with_engine(exported_folder, 8)
    (export.path / "model.fp16.engine").write_bytes(b"another")
    with pytest.raises(PivlError, match="is not the file its manifest describes"):
        Triton().write(export, tmp_path)


def test_the_protobuf_is_used_in_an_export(exported_folder, trial, python):
    options = RunOptions({"triton": python})
    (entry,) = add_consumers(exported_folder.path, [Triton()], trial, options)
    assert {run.status for run in entry.runs} == {"unverified"}
    assert all("parsed by tritonclient 2" in run.by for run in entry.runs)


def test_a_python_without_tritonclient_is_refused(tmp_path):
    with pytest.raises(PivlError, match="Cannot run the Python"):
        Triton().check_python(tmp_path / "python")


def test_the_networks_take_bytes_and_are_measured_but_not_verified(exported_folder, trial):
    path = exported_folder.path
    (entry,) = add_consumers(path, [Triton()], trial, RunOptions())
    assert entry.status == "unverified"
    assert entry.reason.startswith("Never run in Triton")
    assert entry.runs[0].exact.min_cosine > 1 - 1e-6
    assert entry.runs[0].as_used.min_cosine > 1 - 1e-6
    assert entry.runs[0].retrieval is not None
    session = ort.InferenceSession(path / "triton" / "repo" / "small" / "1" / "model.onnx")
    crops = trial.reference.test.query.crops[:5]
    (vectors,) = session.run(None, {"images": crops})
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    expected = Extractor(path, precision="fp32", device="cpu").embed(crops)
    np.testing.assert_allclose(unit, expected, atol=1e-5)

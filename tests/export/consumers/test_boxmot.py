"""The files for BoxMOT say what BoxMOT would otherwise guess."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from dataclasses import replace

import numpy as np
import pytest
import yaml

from export.consumers.base import ExportFolder, Frame, NetworkFile
from export.consumers.boxmot import BoxMot
from export.consumers.graphs import NORMALISED
from pivl_distill.errors import PivlError


@pytest.fixture
def written(exported_folder, tmp_path):
    folder = tmp_path / "boxmot"
    folder.mkdir()
    return folder, BoxMot().write(exported_folder, folder)


def test_every_precision_has_a_component_and_a_sidecar(written):
    folder, files = written
    assert [(file.path, file.precision) for file in files[:3]] == [
        ("reid.onnx", "fp32"),
        ("reid.fp16.onnx", "fp16"),
        ("reid.int8.onnx", "int8"),
    ]
    for file in files[:3]:
        path = folder / file.path
        component = yaml.safe_load(path.with_suffix(".yaml").read_text())
        assert component["backend"] == "onnx"
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        assert component["artifact"] == {"path": path.name, "sha256": digest}
        options = {"batch_size": 32, "embedding_dim": 24, "image_size": [64, 32]}
        assert component["options"] == options
        sidecar = json.loads((folder / f"{path.name}.metadata.json").read_text())
        assert sidecar["model_kwargs"] == {"img_size": [64, 32]}
        assert sidecar["preprocess"] == component["preprocessing"] == "resize"


def test_the_ir_folder_declares_its_input_size(written):
    """BoxMOT reads it from nowhere else; else it feeds 256×128."""
    folder, files = written
    if not importlib.util.find_spec("openvino"):
        pytest.skip("openvino is an extra: pip install 'pivl-distill[openvino]'")
    assert files[3:] == (NetworkFile("reid_openvino_model/reid.xml", "fp32"),)
    inside = folder / "reid_openvino_model"
    assert json.loads((inside / "manifest.json").read_text())["img_size"] == [64, 32]
    component = yaml.safe_load((folder / "reid_openvino_model.yaml").read_text())
    assert component["backend"] == "openvino"
    digest = hashlib.sha256(b"boxmot-artifact-directory-v1\0")
    for name in ("manifest.json", "reid.bin", "reid.xml"):
        digest.update(len(name).to_bytes(8, "big"))
        digest.update(name.encode())
        digest.update(hashlib.sha256((inside / name).read_bytes()).digest())
    assert component["artifact"]["sha256"] == digest.hexdigest()
    (argument,) = BoxMot().arguments(folder, files[3])
    assert argument == folder / "reid_openvino_model.yaml"


def test_without_openvino_the_missing_ir_is_named(exported_folder, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    files = BoxMot().write(exported_folder, tmp_path)
    assert len(files) == 3
    assert "No OpenVINO IR for BoxMOT: openvino is not installed" in caplog.text


def test_no_name_means_something_to_boxmot(written):
    folder, _ = written
    for path in folder.rglob("*"):
        for misleading in ("veri", "vehicleid", "osnet", "mobilenet", "resnet", "market1501"):
            assert misleading not in path.name


def test_other_normalisations_are_adapted_to_imagenets(
    exported_folder, trial, onnx_runner, tmp_path
):
    """A network of another mean and deviation gets the features that it gets from our crops."""
    manifest = exported_folder.manifest
    spec = manifest.input.model_copy(update={"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)})
    clip = ExportFolder(exported_folder.path, manifest.model_copy(update={"input": spec}))
    BoxMot().write(clip, tmp_path)
    frames = [Frame(crop, (0, 0, 32, 64)) for crop in trial.reference.test.query.crops[:4]]
    as_boxmot = onnx_runner(tmp_path / "reid.onnx", NORMALISED).embed(frames)
    own = replace(NORMALISED, mean=spec.mean, std=spec.std)
    expected = onnx_runner(exported_folder.path / "model.onnx", own).embed(frames)
    np.testing.assert_allclose(as_boxmot, expected, rtol=1e-3, atol=1e-4)


def test_an_environment_without_boxmot_is_refused(tmp_path):
    with pytest.raises(PivlError, match="Cannot run the Python"):
        BoxMot().check_python(tmp_path / "python")

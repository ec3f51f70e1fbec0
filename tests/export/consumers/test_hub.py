"""The folder for the hub: an export with a card, transformers.js' names, and what timm loads."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard

from export.consumers.base import ExportFolder, RunOptions
from export.consumers.folders import add_consumers
from export.consumers.hub import Hub
from export.consumers.measure import Trial, prepare_trial
from export.exporter import export_model
from export.manifest_schema import read_manifest
from pivl_distill.errors import PivlError
from pivl_distill.runs.run import Run
from pivl_distill.runtime import Extractor
from pivl_distill.storage.files import sha256
from students.backbones import create_backbone
from students.student import bare_embedding_model, save_student

ARCH = "test_resnet"
"""A tiny network that timm has."""


def export_student(folder: Path, stride: int, image_test, images) -> tuple[Path, Trial]:
    """Export a student with this last stride, as `pivl-distill export` does."""
    torch.manual_seed(0)
    network = create_backbone(ARCH, image_size_hw=(64, 32), last_stride=stride)
    model = bare_embedding_model(ARCH, network, (64, 32))
    checkpoint = folder / "student.safetensors"
    save_student(model, checkpoint, stride)
    run = Run.create("export", "", folder / "export")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("export.exporter._measure_latency", lambda _f, artifacts, _t: artifacts)
        export_model(model, run.path, test=image_test, source=checkpoint)
    run.finish("export", source=str(checkpoint))
    return run.path, prepare_trial(run.path, image_test, *images)


@pytest.fixture(scope="module")
def in_timm(image_test, images, tmp_path_factory):
    """An export, with its folder for the hub, of a network that timm builds."""
    path, trial = export_student(tmp_path_factory.mktemp("timm"), 2, image_test, images)
    (entry,) = add_consumers(path, [Hub()], trial, RunOptions())
    return path, entry


def test_timm_and_the_extractor_load_the_folder(in_timm):
    path, entry = in_timm
    assert entry.status == "verified", entry.reason
    assert [run.file for run in entry.runs] == ["model.onnx", "model.safetensors"]
    extractor, timm = entry.runs
    assert timm.by.startswith("timm ")
    for run in (extractor, timm):
        assert run.exact.min_cosine > 0.9999
        assert run.as_used.min_cosine > 0.9999  # the same resize, by timm's own transform
    config = json.loads((path / "hub" / "config.json").read_text())
    assert config["architecture"] == ARCH
    assert config["pretrained_cfg"]["input_size"] == [3, 64, 32]
    assert sha256(path / "hub/onnx/model.onnx") == sha256(path / "model.onnx")


def test_the_folder_is_an_export_itself(in_timm, image_test):
    path, entry = in_timm
    crops = image_test.query.crops[:4]
    folders = (path, path / "hub")
    vectors = [Extractor(f, precision="fp32", device="cpu").embed(crops) for f in folders]
    np.testing.assert_array_equal(*vectors)
    assert read_manifest(path / "hub").consumers == ()
    assert set(entry.files) == {
        "README.md", "config.json", "golden.png", "manifest.json", "model.onnx",
        "model.safetensors", "onnx/model.onnx",
    }  # fmt: skip


def test_the_card_has_the_metadata_of_the_hub(in_timm):
    path, entry = in_timm
    card = ModelCard.load(path / "hub" / "README.md")
    assert card.data.library_name == "timm"
    assert card.data.pipeline_tag == "image-feature-extraction"
    assert card.data.license == "other"
    assert {"person-re-identification", "onnx", "transformers.js"} <= set(card.data.tags)
    (found,) = [r for r in card.data.eval_results if r.metric_type == "mAP"]
    assert found.metric_value == round(100 * entry.runs[0].retrieval.exported_mAP, 2)
    assert "timm.create_model" in card.text
    assert "{" not in card.text


def test_a_changed_last_stride_is_not_described_for_timm(image_test, images, tmp_path):
    path, trial = export_student(tmp_path, 1, image_test, images)
    (entry,) = add_consumers(path, [Hub()], trial, RunOptions())
    assert entry.status == "verified"
    assert [run.file for run in entry.runs] == ["model.onnx"]
    assert "config.json" not in entry.files
    assert "model.safetensors" in entry.files
    card = ModelCard.load(path / "hub" / "README.md")
    assert card.data.library_name == "pivl-distill"
    assert "timm.create_model" not in card.text


def test_a_missing_checkpoint_is_refused(exported_folder, tmp_path):
    with pytest.raises(PivlError, match="is gone or was changed; the hub gets its weights"):
        Hub().write(ExportFolder(exported_folder.path, exported_folder.manifest), tmp_path)

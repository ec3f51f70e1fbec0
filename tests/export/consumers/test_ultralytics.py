"""The files for Ultralytics: RGB in 0–1, a static size, and a threshold in its own unit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import yaml

from export.consumer_schema import ConsumerRun
from export.consumers.base import ExportFolder, Frame
from export.consumers.graphs import UNIT
from export.consumers.ultralytics import Ultralytics, appearance_threshold
from pivl_distill.retrieval.thresholds import OperatingThreshold
from pivl_distill.runtime.onnx_session import open_session


@pytest.fixture
def written(exported_folder, tmp_path):
    folder = tmp_path / "ultralytics"
    folder.mkdir()
    return folder, Ultralytics().write(exported_folder, folder)


def test_networks_take_unit_pixels_of_a_static_size(written, exported_folder, trial, onnx_runner):
    folder, files = written
    assert [file.path for file in files] == ["reid.onnx", "reid.fp16.onnx", "reid.int8.onnx"]
    for file in files:
        (images,) = open_session(folder / file.path).get_inputs()
        assert images.shape == ["batch", 3, 64, 32]
    crops = trial.reference.test.query.crops[:4]
    vectors = onnx_runner(folder / "reid.onnx", UNIT).embed(
        [Frame(crop, (0, 0, 32, 64)) for crop in crops]
    )
    expected = trial.reference.features.query[:4]
    cosines = (vectors * expected).sum(1) / np.linalg.norm(vectors, axis=1)
    assert cosines.min() > 0.99999


@pytest.mark.parametrize("cosine", [-1.0, 0.2, 0.873])
def test_the_threshold_is_in_the_unit_of_botsort(cosine):
    """BoT-SORT drops a pair if (1 − cosine) / 2 is more than 1 − appearance_thresh."""

    def accepted(of_pair: float) -> bool:
        return (1 - of_pair) / 2 <= 1 - appearance_threshold(cosine)

    assert accepted(cosine + 1e-9)
    assert not accepted(cosine - 1e-3)


def threshold(far: float, cosine: float | None) -> OperatingThreshold:
    return OperatingThreshold(far, cosine, None, None, None, 1000, 100)


@pytest.mark.parametrize(
    ("measured", "expected"),
    [
        ([(1e-2, 0.6), (1e-3, 0.8), (1e-4, 0.9)], 0.9),  # of 1e-3
        ([(1e-2, 0.6), (1e-3, None)], 0.8),  # of 1e-2
        ([(1e-2, None), (1e-3, None)], 0.8),  # its default
        ([], 0.8),
    ],
)
def test_the_tracker_file_has_the_measured_threshold(written, exported_folder, measured, expected):
    folder, files = written
    thresholds = tuple(threshold(*pair) for pair in measured)
    run = ConsumerRun(
        file="reid.fp16.onnx", precision="fp16", status="verified", thresholds=thresholds
    )
    Ultralytics().configure(exported_folder, folder, [run])
    (path,) = Ultralytics().arguments(folder, files[1])
    assert path == folder / "botsort.fp16.yaml"
    tracker = yaml.safe_load(path.read_text())
    assert tracker["appearance_thresh"] == pytest.approx(expected)
    assert tracker["model"] == "reid.fp16.onnx"
    assert tracker["with_reid"] is True
    assert ("not measured" in path.read_text()) == (not measured or measured[0][1] is None)


def test_the_network_of_an_other_normalisation_takes_unit_pixels_too(
    exported_folder, onnx_runner, trial, tmp_path
):
    spec = exported_folder.manifest.input.model_copy(update={"mean": (0.5,) * 3, "std": (0.5,) * 3})
    clip = ExportFolder(
        exported_folder.path, exported_folder.manifest.model_copy(update={"input": spec})
    )
    Ultralytics().write(clip, tmp_path)
    frames = [Frame(crop, (0, 0, 32, 64)) for crop in trial.reference.test.query.crops[:3]]
    own = replace(UNIT, mean=(0.5,) * 3, std=(0.5,) * 3)
    np.testing.assert_allclose(
        onnx_runner(tmp_path / "reid.onnx", UNIT).embed(frames),
        onnx_runner(exported_folder.path / "model.onnx", own).embed(frames),
        rtol=1e-3,
        atol=1e-4,
    )

"""The files for DeepStream: their arithmetic gives the network what it was trained with."""

from __future__ import annotations

import configparser

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import yaml

from export.consumers.base import Frame, NetworkFile, RunOptions
from export.consumers.deepstream import DeepStream, read_secondary, read_tracker
from export.consumers.folders import add_consumers
from pivl_distill.errors import VerificationError
from pivl_distill.runtime import Extractor

NETWORK = NetworkFile("reid.onnx", "fp32")


@pytest.fixture
def written(exported_folder, tmp_path):
    DeepStream().write(exported_folder, tmp_path)
    return exported_folder, tmp_path


def test_both_formulas_give_the_features_of_the_extractor(written, trial):
    """y = scale · (p − offset), then the graph, on random crops of the input size."""
    export, folder = written
    crops = trial.reference.test.query.crops[:6]
    expected = Extractor(export.path, precision="fp32", device="cpu").embed(crops)
    session = ort.InferenceSession(folder / "reid.onnx")
    for feed in (
        read_tracker(folder / "tracker_reid.yml"),
        read_secondary(folder / "sgie_reid.txt"),
    ):
        assert feed.size_hw == (64, 32)
        scaled = feed.scale * (crops.transpose(0, 3, 1, 2).astype(np.float32) - feed.offsets[0])
        assert len(set(feed.offsets)) == 1
        (vectors,) = session.run(None, {"images": scaled})
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        np.testing.assert_allclose(unit, expected, atol=1e-5)


def test_the_files_name_the_network_and_its_sizes(written):
    _, folder = written
    section = yaml.safe_load((folder / "tracker_reid.yml").read_text())["ReID"]
    keys = configparser.ConfigParser()
    keys.read(folder / "sgie_reid.txt")
    graph = onnx.load(folder / "reid.onnx").graph
    shape = [d.dim_value or d.dim_param for d in graph.input[0].type.tensor_type.shape.dim]
    assert shape == ["batch", 3, 64, 32]  # any batch, so that an engine's profile can hold it
    assert section["inferDims"] == shape[1:]
    assert section["reidFeatureSize"] == 24
    assert section["onnxFile"] == keys["property"]["onnx-file"] == "reid.onnx"
    assert section["keepAspc"] == 0
    assert keys["property"]["maintain-aspect-ratio"] == "0"
    assert keys["property"]["output-blob-names"] == graph.output[0].name
    assert f"_b{section['batchSize']}_" in section["modelEngineFile"]
    assert f"_b{keys['property']['batch-size']}_" in keys["property"]["model-engine-file"]


def test_it_is_measured_but_every_file_says_that_it_never_ran(exported_folder, trial):
    (entry,) = add_consumers(exported_folder.path, [DeepStream()], trial, RunOptions())
    assert entry.status == "unverified"
    assert entry.reason.startswith("Never run in DeepStream")
    (run,) = entry.runs
    assert run.exact.min_cosine > 1 - 1e-5
    assert run.as_used.mean_cosine > 0.9
    for name in ("tracker_reid.yml", "sgie_reid.txt"):
        text = (exported_folder.path / "deepstream" / name).read_text()
        assert "Never run in DeepStream" in text.splitlines()[0]


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("tracker_reid.yml", "keepAspc: 0", "keepAspc: 1", "does not feed stretched RGB"),
        ("tracker_reid.yml", "colorFormat: 0", "colorFormat: 1", "does not feed stretched RGB"),
        ("sgie_reid.txt", "model-color-format=0", "model-color-format=1", "does not feed stret"),
        ("sgie_reid.txt", "net-scale-factor=1.0", "net-scale-factor=0.017", "do not feed"),
    ],
)
def test_settings_that_feed_something_else_are_found(written, file, old, new, message):
    export, folder = written
    text = (folder / file).read_text()
    assert old in text
    (folder / file).write_text(text.replace(old, new))
    with (
        pytest.raises(VerificationError, match=message),
        DeepStream().open(export, folder, NETWORK, RunOptions()),
    ):
        pass


def test_boxes_are_stretched(written):
    export, folder = written
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (50, 60, 3), np.uint8)
    frames = [Frame(pixels, (0, 0, 60, 50)), Frame(pixels, (10, 5, 42, 37))]
    with DeepStream().open(export, folder, NETWORK, RunOptions()) as runner:
        assert runner.embed(frames).shape == (2, 24)
        assert runner.unverified

"""A graph of another form returns what the network returns for the same crops."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest

from export.consumers.graphs import (
    IMAGENET_MEAN,
    NORMALISED,
    PIXELS,
    UNIT,
    InputForm,
    write_graph,
)
from export.source import input_spec
from pivl_distill.runtime.onnx_session import open_session

FORMS = {
    "normalised": NORMALISED,
    "unit": UNIT,
    "pixels": PIXELS,
    "bgr": InputForm(IMAGENET_MEAN, (0.2, 0.3, 0.4), colour="BGR"),
    "nhwc": replace(UNIT, layout="NHWC"),
    "uint8": InputForm(std=(1 / 255,) * 3, colour="BGR", layout="NHWC", dtype="uint8"),
}


def features(path, values: np.ndarray) -> np.ndarray:
    session = open_session(path)
    (result,) = session.run(None, {session.get_inputs()[0].name: values})
    return result


@pytest.fixture
def crops() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, 64, 32, 3), np.uint8)


@pytest.mark.parametrize("name", FORMS)
def test_every_form_gives_the_same_features(name, small, small_onnx, crops, tmp_path):
    spec, form = input_spec(small), FORMS[name]
    path = write_graph(small_onnx, tmp_path / "graph.onnx", spec, form)
    expected = features(small_onnx, small.preprocess(crops).numpy())
    found = features(path, form.feed(crops))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    # The forms differ: what is right for one is wrong for the network itself.
    if name not in ("normalised", "nhwc", "uint8"):
        assert abs(features(small_onnx, form.feed(crops)) - expected).max() > 0.01


def test_a_form_feeds_what_it_says(crops):
    form = InputForm((0.1, 0.2, 0.3), (0.5, 1.0, 2.0), colour="BGR", layout="NHWC")
    fed = form.feed(crops)
    red, blue = crops[2, 7, 5, 0] / 255, crops[2, 7, 5, 2] / 255
    assert fed[2, 7, 5] == pytest.approx(
        [(blue - 0.3) / 2.0, crops[2, 7, 5, 1] / 255 - 0.2, (red - 0.1) / 0.5], abs=1e-6
    )


def test_the_network_of_the_right_normalisation_is_not_changed(small, small_onnx, tmp_path):
    path = write_graph(small_onnx, tmp_path / "graph.onnx", input_spec(small), NORMALISED)
    before, after = onnx.load(small_onnx).graph, onnx.load(path).graph
    assert list(before.node) == list(after.node)
    assert list(before.initializer) == list(after.initializer)


def test_names_fixed_batch_and_metadata(small, small_onnx, crops, tmp_path):
    path = write_graph(
        small_onnx,
        tmp_path / "g.onnx",
        input_spec(small),
        UNIT,
        batch=5,
        names=("input", "fc_pred"),
    )
    session = open_session(path)
    (given,), (returned,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.shape) == ("input", [5, 3, 64, 32])
    assert (returned.name, returned.shape) == ("fc_pred", [5, 24])
    expected = features(small_onnx, small.preprocess(crops).numpy())
    np.testing.assert_allclose(features(path, UNIT.feed(crops)), expected, rtol=1e-4, atol=1e-4)
    metadata = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert metadata["mean"] == "[0.0, 0.0, 0.0]"
    assert metadata["std"] == "[1.0, 1.0, 1.0]"
    assert metadata["input"] == "RGB NCHW float32"
    assert metadata["name"] == "small"


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_other_precisions_keep_theirs(precision, exported_folder, small, crops, tmp_path):
    source = exported_folder.sources()[precision]
    path = write_graph(source, tmp_path / "graph.onnx", exported_folder.manifest.input, PIXELS)
    expected = features(source, small.preprocess(crops).numpy())
    np.testing.assert_allclose(
        features(path, PIXELS.feed(crops)), expected, atol=0.02 * abs(expected).max()
    )

"""Networks of others: pixels reach the graph as declared, and files that do not fit are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

from pivl_distill.config import Preprocessing
from pivl_distill.data.records import Record
from pivl_distill.data.store import CropStore
from pivl_distill.errors import PivlError
from pivl_distill.foreign import is_foreign_network, load_foreign
from pivl_distill.models.embedding import embed

SIZE_HW = (16, 8)
PLAIN = Preprocessing(colour="rgb", range=255)


def declare(**settings: Any) -> Preprocessing:
    return Preprocessing.model_validate({"colour": "rgb", "range": 255} | settings)


@pytest.fixture
def crops() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, *SIZE_HW, 3), np.uint8)


@pytest.fixture
def means(crops: np.ndarray) -> np.ndarray:
    """The mean colour [5, 3], RGB in 0..255."""
    return crops.mean((1, 2))


def vectors(path: Path, crops: np.ndarray, preprocessing: Preprocessing = PLAIN) -> np.ndarray:
    network = load_foreign(path, preprocessing)
    return embed(network.model, crops, forward=network.forward)


@pytest.mark.parametrize("openvino", [False, True])
@pytest.mark.parametrize(
    "form",
    [
        {},
        {"batch": 1},
        {"batch": 4},
        {"layout": "nhwc"},
        {"layout": "nhwc", "batch": 1},
        {"keep_axes": True},
        {"size_hw": ("height", "width")},
        {"dtype": TensorProto.FLOAT16},
        {"dtype": TensorProto.UINT8},
    ],
)
def test_every_form_of_file_returns_one_vector_per_crop(
    mean_net, crops, means, form, openvino, request
) -> None:
    path = mean_net(**form)
    if openvino:
        path = request.getfixturevalue("as_openvino")(path)
    declared = declare(size_hw=SIZE_HW)
    result = vectors(path, crops, declared)
    assert result.dtype == np.float32
    tolerance = 0.1 if form.get("dtype") == TensorProto.FLOAT16 else 1e-3
    np.testing.assert_allclose(result, means, atol=tolerance)


def test_colour_range_mean_and_std_are_applied_as_declared(mean_net, crops, means) -> None:
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    for colour, ordered in (("rgb", means), ("bgr", means[:, ::-1])):
        settings = declare(colour=colour, range=1, mean=mean, std=std)
        expected = (ordered / 255 - mean) / np.array(std)
        np.testing.assert_allclose(vectors(mean_net(), crops, settings), expected, atol=1e-5)
        in_255 = {"mean": [255 * m for m in mean], "std": [255 * s for s in std]}
        settings = declare(colour=colour, range=255, **in_255)
        np.testing.assert_allclose(vectors(mean_net(), crops, settings), expected, atol=1e-5)


def test_the_size_is_that_of_the_file(mean_net) -> None:
    assert load_foreign(mean_net(), PLAIN).model.size_hw == SIZE_HW


def test_records_are_embedded_as_their_decoded_crops(mean_net, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("pivl_distill.data.store.CHUNK_FILES", 3)
    rng = np.random.default_rng(1)
    records = []
    for number in range(8):
        path = tmp_path / f"{number}.png"
        Image.fromarray(rng.integers(0, 256, (20, 11, 3), np.uint8)).save(path)
        records.append(Record(path, number, 0))
    network = load_foreign(mean_net(), PLAIN)
    result = network.embed_records(records)
    store = CropStore.load(records, SIZE_HW)
    np.testing.assert_array_equal(
        result, embed(network.model, store.crops, forward=network.forward)
    )


def test_one_of_several_outputs_is_chosen_by_name(mean_net, crops, means) -> None:
    path = mean_net(outputs=("map", "features"))
    with pytest.raises(PivlError, match=r"several outputs; choose one with --output.*'features'"):
        load_foreign(path, PLAIN)
    np.testing.assert_allclose(vectors(path, crops, declare(output="features")), means, atol=1e-3)
    with pytest.raises(PivlError, match=r"no output 'vector'; it has 'map'"):
        load_foreign(path, declare(output="vector"))


@pytest.mark.parametrize(
    ("form", "settings", "message"),
    [
        ({"outputs": ("map",)}, {}, r"is not an embedding network: for 8 crops, 'map' .*\[8, 3,"),
        ({"size_hw": ("h", "w")}, {}, "crops of any size: declare it, as in --size 256x128"),
        ({}, {"size_hw": (256, 128)}, r"'crops' float32 \[\?, 3, 16, 8\], but .* is 256x128"),
        ({"layout": "nhwc"}, {"layout": "nchw"}, "is not nchw with three channels"),
        ({"channels": 4}, {}, "does not say where the channels are"),
        ({"channels": 4}, {"layout": "nchw"}, "is not nchw with three channels"),
        ({"dtype": TensorProto.INT64}, {}, "in float32, float16 or uint8"),
        ({"dtype": TensorProto.UINT8}, {"range": 1}, "declare range 255 without mean and std"),
        ({"dtype": TensorProto.UINT8}, {"std": (2, 2, 2)}, "without mean and std"),
        ({}, {"range": 1, "std": (1e-45, 1, 1)}, "are not finite; check --mean, --std"),
    ],
)
def test_files_that_do_not_fit_are_refused(mean_net, form, settings, message) -> None:
    with pytest.raises(PivlError, match=message):
        load_foreign(mean_net(**form), declare(**settings))


def test_a_layout_that_the_file_leaves_open_can_be_declared(mean_net, crops, means) -> None:
    path = mean_net(channels="channels")
    result = vectors(path, crops, declare(layout="nchw"))
    np.testing.assert_allclose(result, means, atol=1e-3)


def test_only_files_without_a_manifest_are_of_others(tmp_path: Path) -> None:
    assert is_foreign_network(tmp_path / "model.xml")
    assert is_foreign_network(tmp_path / "model.onnx")
    assert not is_foreign_network(tmp_path / "model.engine")
    (tmp_path / "manifest.json").touch()
    assert not is_foreign_network(tmp_path / "model.onnx")


def test_an_exported_network_keeps_its_vectors_without_its_manifest(
    deployed: Path, tmp_path: Path
) -> None:
    from export.loading import load_exported

    model, forward = load_exported(deployed / "model.onnx")
    crops = np.random.default_rng(0).integers(0, 256, (40, *model.size_hw, 3), np.uint8)
    expected = embed(model, crops, forward=forward)
    alone = (deployed / "model.onnx").rename(tmp_path / "model.onnx")
    declared = Preprocessing(colour="rgb", range=1, mean=model.mean, std=model.std)
    np.testing.assert_allclose(vectors(alone, crops, declared), expected, atol=1e-5)


def test_a_network_has_one_input(tmp_path: Path) -> None:
    ports = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, *SIZE_HW])
        for name in ("a", "b", "sum")
    ]
    graph = helper.make_graph(
        [helper.make_node("Add", ["a", "b"], ["sum"])], "sum", ports[:2], ports[2:]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, str(tmp_path / "two.onnx"))
    with pytest.raises(PivlError, match=r"has 2 inputs \('a' float32 .*; a ReID network has one"):
        load_foreign(tmp_path / "two.onnx", PLAIN)


@pytest.mark.parametrize("form", [{"batch": 10**6}, {"size_hw": (10**5, 10**5)}])
def test_absurd_inputs_are_refused(mean_net, form) -> None:
    with pytest.raises(PivlError, match="do not fit; a crop has at most"):
        load_foreign(mean_net(**form), Preprocessing(colour="rgb", range=255))


def test_the_space_is_that_of_file_and_declared_input(mean_net, as_openvino) -> None:
    path = mean_net()
    space = load_foreign(path, PLAIN).space
    assert space is not None
    assert space == load_foreign(path, declare(size_hw=SIZE_HW, layout="nchw")).space
    others = [
        load_foreign(path, declare(colour="bgr")).space,
        load_foreign(as_openvino(path), PLAIN).space,
        load_foreign(mean_net(keep_axes=True), PLAIN).space,
    ]
    assert len({space, *others}) == 4


def test_an_export_without_its_manifest_names_its_space(deployed: Path, tmp_path: Path) -> None:
    from export.manifest_schema import read_manifest

    space = read_manifest(deployed).space
    alone = (deployed / "model.int8.onnx").rename(tmp_path / "model.int8.onnx")
    assert load_foreign(alone, declare(range=1, size_hw=(64, 32))).space == space
    model = onnx.load(alone)
    onnx.helper.set_model_props(model, {"vector_space": "x"})
    onnx.save(model, alone)
    with pytest.raises(PivlError, match="damaged metadata"):
        load_foreign(alone, declare(range=1, size_hw=(64, 32)))

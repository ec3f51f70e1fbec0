"""Half precision: products in float16; sensitive operators, inputs and outputs in float32."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto

from export.fp16 import SENSITIVE, write_fp16
from export.onnx_export import write_onnx
from export.onnx_inference import run_session
from pivl_distill.errors import PivlError
from pivl_distill.models.embedding import EmbeddingModel
from pivl_distill.runtime.onnx_session import open_session

HALF, FLOAT = TensorProto.FLOAT16, TensorProto.FLOAT


def types(path) -> tuple[onnx.GraphProto, dict[str, int]]:
    """Return the graph and the element type of every tensor, from strict shape inference."""
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    values = [*graph.input, *graph.value_info, *graph.output]
    found = {value.name: value.type.tensor_type.elem_type for value in values}
    return graph, found | {i.name: i.data_type for i in graph.initializer}


@pytest.mark.parametrize("name", ["mobilenetv2_025", "vit_tiny_patch16_224"])
def test_fp16_graph_has_the_right_types_and_close_features(exported, name, tmp_path):
    model, fp32 = exported(name)
    path = write_fp16(fp32, tmp_path / "model.fp16.onnx")
    graph, found = types(path)
    assert found["images"] == found["features"] == FLOAT
    for node in graph.node:
        floats = {found[n] for n in (*node.input, *node.output) if found.get(n) in (HALF, FLOAT)}
        if node.op_type != "Cast":
            assert len(floats) <= 1, f"{node.name} mixes types"
        if node.op_type in {"Conv", "MatMul", "Gemm", "Gelu", "Clip", "Add"}:
            assert floats == {HALF}, node.name
        if node.op_type in SENSITIVE:
            assert floats == {FLOAT}, node.name
    assert path.stat().st_size < 0.6 * fp32.stat().st_size
    properties = {p.key: p.value for p in onnx.load(path).metadata_props}
    assert properties["precision"] == "fp16"
    assert properties["name"] == name
    for batch in (1, 3):
        images = torch.randn(batch, 3, *model.size_hw)
        expected = run_session(open_session(fp32), images)
        features = run_session(open_session(path), images)
        assert features.dtype == torch.float32
        assert (features - expected).abs().max() < 0.01 * expected.abs().max()


def test_transpose_keeps_the_type_of_its_input(tmp_path):
    """ONNX Runtime moves a cast between a norm and a transpose, and then crashes."""

    class SequenceFirst(torch.nn.Module):
        """The first layers of a block of CLIP's image transformer."""

        def __init__(self) -> None:
            super().__init__()
            self.norm, self.linear = torch.nn.LayerNorm(4), torch.nn.Linear(4, 4, bias=False)

        def forward(self, images):
            tokens = self.norm(images.flatten(1, 2)[..., :4]).transpose(0, 1)
            return self.linear(tokens)[0]

    model = EmbeddingModel("s", SequenceFirst().eval(), (8, 6), (0.5,) * 3, (0.5,) * 3)
    fp32 = write_onnx(model, tmp_path / "m.onnx")
    path = write_fp16(fp32, tmp_path / "half.onnx")
    graph, found = types(path)
    (transposition,) = (node for node in graph.node if node.op_type == "Transpose")
    assert found[transposition.input[0]] == found[transposition.output[0]] == FLOAT
    images = torch.randn(3, 3, 8, 6)
    half, expected = (
        run_session(open_session(path), images),
        run_session(open_session(fp32), images),
    )
    assert (half - expected).abs().max() < 0.01 * expected.abs().max()


def test_preprocessing_and_normalisation_stay_in_float32(small, tmp_path):
    """Means in float16 would shift the image; tiny norms in float16 would divide by zero."""
    options = {"normalize": True, "bake_preprocessing": True}
    path = write_fp16(write_onnx(small, tmp_path / "m.onnx", **options), tmp_path / "half.onnx")
    graph, found = types(path)
    for node in graph.node:
        if node.op_type in {"Div", "Sub", "ReduceL2", "Expand"}:
            assert found[node.output[0]] == FLOAT, node.name
    casts = [node for node in graph.node if node.op_type == "Cast"]
    assert len(casts) == 3  # bytes to float; into the network; out of it
    crops = np.random.default_rng(0).integers(0, 256, (4, *small.size_hw, 3), np.uint8)
    with torch.inference_mode():
        expected = torch.nn.functional.normalize(small.network(small.preprocess(crops)))
    features = run_session(open_session(path), torch.from_numpy(crops))
    assert (features * expected).sum(dim=1).min() > 0.9999
    torch.testing.assert_close(features.norm(dim=1), torch.ones(4))


def test_weight_too_large_for_fp16_is_named(small_onnx, tmp_path):
    model = onnx.load(small_onnx)
    weight = model.graph.initializer[0]
    huge = onnx.numpy_helper.to_array(weight) * np.float32(1e9)
    weight.CopyFrom(onnx.numpy_helper.from_array(huge, weight.name))
    onnx.save(model, tmp_path / "huge.onnx")
    with pytest.raises(PivlError, match=f"'{weight.name}' is too large for half precision"):
        write_fp16(tmp_path / "huge.onnx", tmp_path / "half.onnx")
    assert not (tmp_path / "half.onnx").exists()


def test_camera_ids_stay_integers(tmp_path):
    class WithCameras(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 4, 3)
            self.cameras = torch.nn.Parameter(torch.randn(5, 4))

        def forward(self, images, cameras):
            return self.conv(images).mean((2, 3)) + self.cameras[cameras]

    model = EmbeddingModel("c", WithCameras().eval(), (8, 6), (0.5,) * 3, (0.5,) * 3, cameras=5)
    fp32 = write_onnx(model, tmp_path / "m.onnx")
    inputs = torch.randn(3, 3, 8, 6), torch.tensor([0, 4, 2])
    half = run_session(open_session(write_fp16(fp32, tmp_path / "half.onnx")), *inputs)
    assert (half - run_session(open_session(fp32), *inputs)).abs().max() < 0.01

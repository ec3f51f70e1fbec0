"""ONNX files are looked into before they are parsed: shapes, external data, nesting."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pivl_distill.errors import PivlError
from pivl_distill.runtime import onnx_file
from pivl_distill.runtime.onnx_file import OnnxFile, check_onnx_file
from pivl_distill.runtime.onnx_session import open_session

WEIGHT = numpy_helper.from_array(np.arange(4, dtype=np.float32), "weight")
FLOATS = helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])


def write(path: Path, *nodes: onnx.NodeProto, weight: TensorProto = WEIGHT) -> Path:
    """Write a graph: x + weight, after other nodes."""
    total = helper.make_node("Add", ["x", "weight"], ["y"])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])
    graph = helper.make_graph([*nodes, total], "sum", [FLOATS], [result], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path.write_bytes(model.SerializeToString())
    return path


def external(location: str, dims: tuple[int, ...] = (4,)) -> TensorProto:
    tensor = TensorProto(name="weight", data_type=TensorProto.FLOAT, dims=dims)
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return tensor


def absurd(dims: tuple[int, ...] = (2**40,)) -> TensorProto:
    return TensorProto(name="weight", data_type=TensorProto.FLOAT, dims=dims, raw_data=bytes(16))


def test_sound_files_run(tmp_path, deployed_once):
    path = write(tmp_path / "sum.onnx")
    for model in (path, OnnxFile(path, path.read_bytes())):
        (result,) = open_session(model).run(None, {"x": np.ones(4, np.float32)})
        assert result.tolist() == [1, 2, 3, 4]
    for file in deployed_once.glob("*.onnx"):
        check_onnx_file(file)


def test_external_data_beside_the_file_is_read_if_it_is_allowed(tmp_path):
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "weights.bin").write_bytes(np.arange(4, dtype=np.float32).tobytes())
    path = write(tmp_path / "sum.onnx", weight=external("w/weights.bin"))
    (result,) = open_session(path, external_data=True).run(None, {"x": np.ones(4, np.float32)})
    assert result.tolist() == [1, 2, 3, 4]
    with pytest.raises(PivlError, match=r"keeps the tensor 'weight' in another file, 'w/weights"):
        open_session(path)


@pytest.mark.parametrize(
    "location",
    ["../secret", "/etc/passwd", "..\\secret", "C:\\secret", "*/_ORT_MEM_ADDR_/*", "link", "w", ""],
)
def test_external_data_elsewhere_is_refused(tmp_path, location):
    folder = tmp_path / "folder"
    (folder / "w").mkdir(parents=True)
    (tmp_path / "secret").write_bytes(bytes(16))
    (folder / "link").symlink_to("../secret")
    path = write(folder / "sum.onnx", weight=external(location))
    with pytest.raises(PivlError):
        open_session(path, external_data=True)


def test_external_data_of_absurd_shape_is_refused(tmp_path):
    (tmp_path / "weights.bin").write_bytes(bytes(16))
    path = write(tmp_path / "sum.onnx", weight=external("weights.bin", (2**50,)))
    with pytest.raises(
        PivlError, match=r"declares 1,125,899,906,842,624 values .* stores 16 bytes"
    ):
        open_session(path, external_data=True)


def in_constant(tensor: TensorProto) -> onnx.NodeProto:
    return helper.make_node("Constant", [], ["c"], value=tensor)


def in_subgraph(tensor: TensorProto) -> onnx.NodeProto:
    branch = helper.make_graph([in_constant(tensor)], "branch", [], [FLOATS])
    return helper.make_node("If", ["x"], ["d"], then_branch=branch, else_branch=branch)


def in_sparse(tensor: TensorProto) -> onnx.NodeProto:
    sparse = onnx.SparseTensorProto(values=tensor, indices=WEIGHT, dims=[4])
    return helper.make_node("Constant", [], ["c"], sparse_value=sparse)


@pytest.mark.parametrize("place", [in_constant, in_subgraph, in_sparse])
def test_tensors_are_found_everywhere(
    tmp_path: Path, place: Callable[[TensorProto], onnx.NodeProto]
) -> None:
    with pytest.raises(PivlError, match="declares 1,099,511,627,776 values"):
        check_onnx_file(write(tmp_path / "a.onnx", place(absurd())))
    with pytest.raises(PivlError, match="in another file"):
        check_onnx_file(write(tmp_path / "b.onnx", place(external("/etc/passwd"))))


@pytest.mark.parametrize("dims", [(-1,), (2**62, 2**62), (1,) * 33])
def test_impossible_shapes_are_refused(tmp_path, dims):
    with pytest.raises(PivlError, match=r"negative size or too many axes|declares"):
        check_onnx_file(write(tmp_path / "sum.onnx", weight=absurd(dims)))


def test_deep_and_endless_graphs_are_refused(tmp_path, monkeypatch):
    node = in_constant(WEIGHT)
    for _ in range(12):
        branch = helper.make_graph([node], "branch", [], [FLOATS])
        node = helper.make_node("If", ["x"], ["d"], then_branch=branch)
    with pytest.raises(PivlError, match="nested deeper than 32 levels"):
        check_onnx_file(write(tmp_path / "deep.onnx", node))
    path = write(tmp_path / "long.onnx", *[in_constant(WEIGHT)] * 100)
    check_onnx_file(path)
    monkeypatch.setattr(onnx_file, "MAX_ONNX_FIELDS", 100)
    with pytest.raises(PivlError, match="more than 100 fields"):
        check_onnx_file(path)


def test_other_files_are_refused(tmp_path):
    good = write(tmp_path / "good.onnx").read_bytes()
    path = tmp_path / "bad.onnx"
    for content in (
        b"",
        b"no graph",
        good[:-1],
        good[:20],
        b"\xff" * 40,
        b"\x3a\xff\xff\xff\xff\x7f",
    ):
        path.write_bytes(content)
        with pytest.raises(PivlError, match=r"cannot load .*bad\.onnx"):
            open_session(path)
    with pytest.raises(PivlError, match="There is no ONNX file"):
        check_onnx_file(tmp_path / "none.onnx")
    with path.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(PivlError, match=r"has 1,048,576\.0 MiB, but"):
        check_onnx_file(path)

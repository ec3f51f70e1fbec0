"""Engine builds: the calls to TensorRT, the files written, and the errors."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from export.engines import builder
from export.engines.builder import build_engine
from export.engines.engine_info import BatchProfile, Gpu, read_sidecar
from export.engines.runner import check_engine_loads
from export.onnx_export import write_onnx
from pivl_distill.errors import PivlError
from pivl_distill.storage.cache_dir import cache_dir
from pivl_distill.storage.files import sha256

PROFILE = BatchProfile.parse("1,8,16")
L4 = Gpu(name="NVIDIA L4", compute_capability="8.9")


@pytest.fixture
def onnx_path(mobilenet, tmp_path) -> Path:
    """Copy MobileNetV2's ONNX file into an empty folder."""
    path = tmp_path / "model.onnx"
    path.write_bytes(mobilenet[1].read_bytes())
    return path


@pytest.fixture
def gpu(monkeypatch) -> Gpu:
    """Simulate a GPU."""
    monkeypatch.setattr(Gpu, "current", lambda: L4)
    return L4


def test_sidecar_records_how_the_engine_was_built(fake_tensorrt, gpu, onnx_path):
    path, info = build_engine(onnx_path, "tensorrt", PROFILE, workspace_bytes=1 << 20)
    assert path == onnx_path.with_name("model.fp32.engine")
    assert path.read_bytes().startswith(b"plan")
    assert read_sidecar(path) == info
    metadata = json.loads(path.with_name("model.fp32.engine.json").read_text())
    assert (metadata["library"], metadata["library_version"]) == ("tensorrt", "11.4.0")
    assert metadata["precision"] == "fp32"
    assert metadata["flags"] == []  # TF32, the library's default, would be less precise
    assert metadata["profile"] == {"min_batch": 1, "opt_batch": 8, "max_batch": 16}
    assert metadata["workspace_bytes"] == 1 << 20
    assert metadata["inputs"] == [{"name": "images", "dtype": "FLOAT", "shape": [-1, 3, 64, 32]}]
    assert metadata["output"] == {"name": "features", "dtype": "FLOAT", "shape": [-1, 1280]}
    assert metadata["onnx_file"] == "model.onnx"
    assert metadata["onnx_sha256"] == sha256(onnx_path)
    assert metadata["engine_sha256"] == sha256(path)
    assert metadata["engine_bytes"] == path.stat().st_size
    assert metadata["gpu"] == {"name": "NVIDIA L4", "compute_capability": "8.9"}
    assert metadata["metadata"]["name"] == "mobilenetv2_025"


def test_profile_has_the_three_batch_sizes(fake_tensorrt, onnx_path):
    build_engine(onnx_path, "tensorrt", PROFILE)
    shapes = ((1, 3, 64, 32), (8, 3, 64, 32), (16, 3, 64, 32))
    assert fake_tensorrt.calls["profile"] == {"images": shapes}


def test_profile_includes_the_cameras_input(fake_tensorrt, tmp_path):
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, 8, 4])
    cameras = helper.make_tensor_value_info("cameras", TensorProto.INT64, ["batch"])
    features = helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", 3])
    graph = helper.make_graph([], "g", [images, cameras], [features])
    onnx.save(helper.make_model(graph), tmp_path / "model.onnx")
    _, info = build_engine(tmp_path / "model.onnx", "tensorrt", PROFILE)
    assert fake_tensorrt.calls["profile"]["cameras"] == ((1,), (8,), (16,))
    assert [tensor.dtype for tensor in info.inputs] == ["FLOAT", "INT64"]


def test_workspace_defaults_to_the_librarys_limit(fake_tensorrt, onnx_path):
    assert build_engine(onnx_path, "tensorrt", PROFILE)[1].workspace_bytes == 1 << 36


@pytest.mark.parametrize(("strongly_typed", "flags"), [(True, 1 << 1), (False, 0)])
def test_strong_typing_flag_is_looked_up_by_name(fake_tensorrt, onnx_path, strongly_typed, flags):
    if not strongly_typed:
        fake_tensorrt.NetworkDefinitionCreationFlag = object()
    build_engine(onnx_path, "tensorrt", PROFILE)
    assert fake_tensorrt.calls["flags"] == flags


def test_parser_errors_name_nodes_and_operators(fake_tensorrt, onnx_path):
    node_error = fake_tensorrt.ParserError
    fake_tensorrt.parser_errors = [
        node_error("UNSUPPORTED_NODE", "false", "node_3", "Det"),
        node_error("INVALID_NODE", "Invalid Node - q\nwrong type\ncatchCudaError: 35", "q", "Mul"),
        node_error("MODEL_DESERIALIZE_FAILED", "not a model"),
    ]
    with pytest.raises(PivlError) as error:
        build_engine(onnx_path, "tensorrt", PROFILE)
    assert str(error.value) == (
        f"TensorRT 11.4.0 cannot read '{onnx_path}': node 'node_3' (Det), UNSUPPORTED_NODE: false; "
        "node 'q' (Mul), INVALID_NODE: Invalid Node - q wrong type; not a model."
    )
    assert list(onnx_path.parent.iterdir()) == [onnx_path]


def test_failed_build_writes_nothing_and_reports_the_reason(fake_tensorrt, onnx_path):
    fake_tensorrt.plan = None
    with pytest.raises(PivlError, match=r"could not build an engine .* no tactic fits\."):
        build_engine(onnx_path, "tensorrt", PROFILE)
    assert list(onnx_path.parent.iterdir()) == [onnx_path]


def test_missing_driver_is_reported(fake_tensorrt, onnx_path):
    fake_tensorrt.has_driver = False
    with pytest.raises(PivlError, match=r"needs the NVIDIA GPU .* finds none.*CUDA init.*--rtx"):
        build_engine(onnx_path, "tensorrt", PROFILE)


def test_missing_and_invalid_onnx_files_raise(fake_tensorrt, tmp_path):
    with pytest.raises(PivlError, match=r"There is no ONNX file at '.*model\.onnx'"):
        build_engine(tmp_path / "model.onnx", "tensorrt", PROFILE)
    (tmp_path / "model.onnx").write_bytes(b"not a graph")
    with pytest.raises(PivlError, match="is not an ONNX file"):
        build_engine(tmp_path / "model.onnx", "tensorrt", PROFILE)


def test_timing_cache_is_stored_per_version_and_gpu(
    fake_tensorrt, gpu, onnx_path, monkeypatch, tmp_path
):
    monkeypatch.setenv("PIVL_DISTILL_CACHE", str(tmp_path / "cache"))
    build_engine(onnx_path, "tensorrt", PROFILE)
    (cache_file,) = (cache_dir() / "timings").iterdir()
    assert cache_file.name == "tensorrt-11.4.0-NVIDIA-L4-8.9.cache"
    assert cache_file.read_bytes() == b"+"
    fake_tensorrt.accepted_timing_caches = (b"", b"+")
    build_engine(onnx_path, "tensorrt", PROFILE)
    assert cache_file.read_bytes() == b"++"


def test_rejected_timing_cache_is_replaced(fake_tensorrt, gpu, onnx_path, monkeypatch, tmp_path):
    monkeypatch.setenv("PIVL_DISTILL_CACHE", str(tmp_path / "cache"))
    build_engine(onnx_path, "tensorrt", PROFILE)
    (cache_file,) = (cache_dir() / "timings").iterdir()
    cache_file.write_bytes(b"damaged")
    build_engine(onnx_path, "tensorrt", PROFILE)
    assert fake_tensorrt.calls["timing_caches"][-2:] == [b"damaged", b""]
    assert cache_file.read_bytes() == b"+"


def test_unwritable_timing_cache_logs_a_warning_only(
    fake_tensorrt, gpu, onnx_path, monkeypatch, tmp_path, caplog
):
    (tmp_path / "cache").write_text("a file, not a folder")
    monkeypatch.setenv("PIVL_DISTILL_CACHE", str(tmp_path / "cache"))
    path, _ = build_engine(onnx_path, "tensorrt", PROFILE)
    assert path.is_file()
    assert "timing cache was not written" in caplog.text


def test_tensorrt_rtx_writes_no_timing_cache(fake_tensorrt, onnx_path, monkeypatch, tmp_path):
    monkeypatch.setenv("PIVL_DISTILL_CACHE", str(tmp_path / "cache"))
    build_engine(onnx_path, "tensorrt-rtx", PROFILE)
    assert not (tmp_path / "cache").exists()


# The tests below use the real TensorRT-RTX on the CPU.


@pytest.mark.parametrize("arch", ["mobilenetv2_025", "test_vit"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_real_engine_is_built_and_loads(rtx, exported, in_precision, tmp_path, arch, precision):
    onnx_path = in_precision(exported(arch), precision, tmp_path)
    path, info = build_engine(onnx_path, "tensorrt-rtx", PROFILE)
    assert path.name == f"model.{precision}.rtx.engine"
    assert info.precision == precision
    assert info.library_version == rtx.__version__
    assert [tensor.name for tensor in (*info.inputs, info.output)] == ["images", "features"]
    assert info.inputs[0].shape == (-1, 3, 64, 32)
    assert info.output.dtype == "FLOAT"
    assert info.engine_bytes == path.stat().st_size > 100_000
    assert all(name in path.read_bytes() for name in (b"images", b"features"))
    check_engine_loads(path)


def test_fp16_engine_is_smaller_than_fp32(rtx, exported, in_precision, tmp_path):
    sizes = {}
    for precision in ("fp32", "fp16"):
        onnx_path = in_precision(exported("mobilenetv2_025"), precision, tmp_path)
        sizes[precision] = build_engine(onnx_path, "tensorrt-rtx", PROFILE)[1].engine_bytes
    assert sizes["fp16"] < 0.8 * sizes["fp32"]


def test_real_parser_names_the_unsupported_node(rtx, tmp_path):
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, 8, 8])
    features = helper.make_tensor_value_info("features", TensorProto.FLOAT, None)
    node = helper.make_node("Det", ["images"], ["features"], name="the_determinant")
    graph = helper.make_graph([node], "g", [images], [features])
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]), path)
    with pytest.raises(PivlError, match=r"node 'the_determinant' \(Det\), UNSUPPORTED_NODE"):
        build_engine(path, "tensorrt-rtx", PROFILE)


def test_int8_for_cpus_is_rejected_with_a_hint(rtx, mobilenet, in_precision, tmp_path):
    path = in_precision(mobilenet, "int8 for CPUs", tmp_path)
    with pytest.raises(PivlError, match=r"DequantizeLinear.*Int32.*signed activations"):
        build_engine(path, "tensorrt-rtx", PROFILE)


def test_baked_in_preprocessing_gives_a_uint8_input(rtx, small, tmp_path):
    path = write_onnx(small, tmp_path / "model.onnx", bake_preprocessing=True)
    _, info = build_engine(path, "tensorrt-rtx", PROFILE)
    assert (info.inputs[0].dtype, info.inputs[0].shape) == ("UINT8", (-1, 64, 32, 3))


def test_too_little_workspace_reports_the_librarys_error(rtx, onnx_path):
    with pytest.raises(PivlError, match="workspace limit"):
        build_engine(onnx_path, "tensorrt-rtx", PROFILE, workspace_bytes=1024)


def test_ctrl_c_cancels_a_real_build(rtx, onnx_path, monkeypatch):
    real = builder.progress_monitor

    def interrupting(trt, show):
        def interrupt(share):
            show(share)
            if share > 0.1:
                os.kill(os.getpid(), signal.SIGINT)

        return real(trt, interrupt)

    monkeypatch.setattr(builder, "progress_monitor", interrupting)
    with pytest.raises(KeyboardInterrupt):
        build_engine(onnx_path, "tensorrt-rtx", PROFILE)
    assert list(onnx_path.parent.iterdir()) == [onnx_path]
    monkeypatch.undo()
    assert build_engine(onnx_path, "tensorrt-rtx", PROFILE)[0].is_file()

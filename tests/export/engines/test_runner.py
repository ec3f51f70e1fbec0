"""Running an engine: errors if it cannot run here, and chunks above its maximum batch size."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from onnx import TensorProto, helper

from export.engines import runner
from export.engines.builder import build_engine
from export.engines.engine_info import BatchProfile, Gpu, read_sidecar, write_sidecar
from export.engines.runner import EngineRunner, check_engine_loads
from pivl_distill.errors import PivlError
from pivl_distill.storage.files import sha256

L4 = Gpu(name="NVIDIA L4", compute_capability="8.9")


class Stream:
    """A CUDA stream that records the streams it waited for."""

    cuda_stream = 7

    def __init__(self) -> None:
        self.waited_for: list[object] = []

    def wait_stream(self, other: object) -> None:
        self.waited_for.append(other)


@pytest.fixture
def torch_stream(monkeypatch) -> Stream:
    """Simulate a GPU whose memory is the CPU's; return torch's current stream."""
    stream = Stream()
    monkeypatch.setattr(Gpu, "current", lambda: L4)
    monkeypatch.setattr(runner, "DEVICE", torch.device("cpu"))
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: stream)
    return stream


def write_graph(folder: Path, *, cameras: bool = False) -> Path:
    """Write an ONNX file with the inputs and the output of an export but no nodes."""
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, 8, 4])
    camera = helper.make_tensor_value_info("cameras", TensorProto.INT64, ["batch"])
    features = helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", 3])
    inputs = [images, camera] if cameras else [images]
    onnx.save(
        helper.make_model(helper.make_graph([], "g", inputs, [features])), folder / "model.onnx"
    )
    return folder / "model.onnx"


@pytest.fixture
def engine(fake_tensorrt, torch_stream, tmp_path) -> Path:
    return build_engine(write_graph(tmp_path), "tensorrt", BatchProfile.parse("1,4,8"))[0]


def images(batch: int) -> torch.Tensor:
    return torch.randn(batch, 3, 8, 4, generator=torch.Generator().manual_seed(batch))


@pytest.mark.parametrize(
    ("batch", "chunks"), [(1, [1]), (8, [8]), (9, [5, 4]), (17, [6, 6, 5]), (64, [8] * 8)]
)
def test_large_batch_is_split_into_even_chunks(engine, fake_tensorrt, batch, chunks):
    batch_images = images(batch)
    features = EngineRunner(engine)(batch_images)
    torch.testing.assert_close(features, batch_images.sum(dim=(2, 3)))
    assert fake_tensorrt.batches == chunks


def test_non_contiguous_images_are_accepted(engine):
    batch_images = images(3).permute(0, 1, 3, 2).contiguous().permute(0, 1, 3, 2)
    assert not batch_images.is_contiguous()
    torch.testing.assert_close(EngineRunner(engine)(batch_images), batch_images.sum(dim=(2, 3)))


def test_engine_stream_and_torch_stream_wait_for_each_other(engine, torch_stream):
    run = EngineRunner(engine)
    run(images(2))
    assert run._stream.waited_for == [torch_stream]
    assert torch_stream.waited_for == [run._stream]


def test_cameras_are_passed_with_the_images(fake_tensorrt, torch_stream, tmp_path):
    path, _ = build_engine(
        write_graph(tmp_path, cameras=True), "tensorrt", BatchProfile.parse("1,4,8")
    )
    run, batch_images = EngineRunner(path), images(9)
    features = run(batch_images, torch.arange(9))
    torch.testing.assert_close(features, batch_images.sum(dim=(2, 3)))
    with pytest.raises(PivlError, match=r"'cameras' are torch\.int64 \[batch\], not torch\.int32"):
        run(batch_images, torch.arange(9, dtype=torch.int32))


@pytest.mark.parametrize(
    "batch_images",
    [
        torch.zeros(2, 3, 4, 8),
        torch.zeros(3, 8, 4),
        torch.zeros(2, 3, 8, 4, dtype=torch.float64),
        torch.zeros(0, 3, 8, 4),
    ],
)
def test_images_of_wrong_shape_or_dtype_are_rejected(engine, batch_images):
    with pytest.raises(PivlError, match=r"'images' are torch\.float32 \[batch, 3, 8, 4\], not"):
        EngineRunner(engine)(batch_images)


@pytest.mark.parametrize("batch", [1, 3, 4])
def test_batch_below_the_profile_minimum_is_padded(fake_tensorrt, torch_stream, tmp_path, batch):
    path, _ = build_engine(
        write_graph(tmp_path, cameras=True), "tensorrt", BatchProfile.parse("4,4,8")
    )
    batch_images = images(batch)
    features = EngineRunner(path)(batch_images, torch.arange(batch))
    torch.testing.assert_close(features, batch_images.sum(dim=(2, 3)))
    assert fake_tensorrt.batches == [4]


def test_failed_run_raises_with_the_librarys_error(engine, fake_tensorrt, monkeypatch):
    run = EngineRunner(engine)

    def fail(stream):
        run._log.log(1, "misaligned address")
        return False

    monkeypatch.setattr(run._context, "execute_async_v3", fail)
    with pytest.raises(PivlError, match=r"fp32\.engine' could not be run: misaligned address\."):
        run(images(1))
    monkeypatch.setattr(run._context, "execute_async_v3", lambda stream: False)
    with pytest.raises(PivlError, match=r"could not be run: TensorRT gives no reason\."):
        run(images(1))


def test_batch_above_the_plans_maximum_names_the_option(engine):
    """The sidecar has a larger maximum batch size than the engine."""
    info = read_sidecar(engine)
    write_sidecar(engine, info.model_copy(update={"profile": BatchProfile.parse("1,4,16")}))
    with pytest.raises(PivlError, match=r"takes batches 1 to 8, not 16: .* --batch 1,16,16\."):
        EngineRunner(engine)(images(16))


def test_lack_of_memory_for_the_context_raises(engine, fake_tensorrt):
    fake_tensorrt.has_context_memory = False
    with pytest.raises(PivlError, match=r"cannot be prepared for running: out of memory\. Free"):
        EngineRunner(engine)


def test_engine_of_another_version_is_rejected(engine, fake_tensorrt):
    fake_tensorrt.__version__ = "11.5.0"
    with pytest.raises(PivlError, match=r"TensorRT 11\.4\.0, but 11\.5\.0 .* again from model\.on"):
        EngineRunner(engine)
    with pytest.raises(PivlError, match="load only with their own version"):
        check_engine_loads(engine)


def test_missing_gpu_error_suggests_the_onnx_file(engine, monkeypatch):
    monkeypatch.setattr(Gpu, "current", lambda: None)
    with pytest.raises(PivlError, match=r"torch finds none here.*run the ONNX file"):
        EngineRunner(engine)


def test_engine_for_another_compute_capability_is_rejected(engine, monkeypatch):
    orin = Gpu(name="Orin", compute_capability="8.7")
    monkeypatch.setattr(Gpu, "current", lambda: orin)
    with pytest.raises(
        PivlError, match=r"on NVIDIA L4 \(compute capability 8\.9\), but this is Orin \(8\.7\)"
    ):
        EngineRunner(engine)


def test_another_gpu_of_the_same_capability_logs_a_warning(engine, monkeypatch, caplog):
    monkeypatch.setattr(Gpu, "current", lambda: Gpu(name="RTX 4090", compute_capability="8.9"))
    assert EngineRunner(engine)(images(1)).shape == (1, 3)
    assert "was built on NVIDIA L4; on RTX 4090" in caplog.text


def test_rtx_engine_is_not_bound_to_a_gpu(engine, monkeypatch):
    info = read_sidecar(engine)
    write_sidecar(engine, info.model_copy(update={"library": "tensorrt-rtx", "gpu": None}))
    assert EngineRunner(engine)(images(1)).shape == (1, 3)


def test_rtx_engine_is_rejected_on_an_unsupported_gpu(engine, monkeypatch):
    info = read_sidecar(engine)
    write_sidecar(engine, info.model_copy(update={"library": "tensorrt-rtx", "gpu": None}))
    monkeypatch.setattr(Gpu, "current", lambda: Gpu(name="H100", compute_capability="9.0"))
    with pytest.raises(PivlError, match=r"does not run on H100 \(compute capability 9\.0\)"):
        EngineRunner(engine)


def change_plan(path: Path, plan: bytes) -> None:
    """Replace the engine by other bytes, and the hash in the sidecar."""
    info = read_sidecar(path)
    path.write_bytes(plan)
    write_sidecar(path, info.model_copy(update={"engine_sha256": sha256(path)}))


def test_plan_that_does_not_load_reports_the_librarys_error(engine):
    change_plan(engine, b"no plan")
    for load in (EngineRunner, check_engine_loads):
        with pytest.raises(PivlError, match=r"cannot be loaded: magicTag\. Build it again"):
            load(engine)


def test_load_check_compares_the_profile_with_the_sidecar(engine):
    assert check_engine_loads(engine)
    info = read_sidecar(engine)
    write_sidecar(engine, info.model_copy(update={"profile": BatchProfile.parse("1,4,16")}))
    with pytest.raises(PivlError, match="not what its"):
        check_engine_loads(engine)


def test_load_check_without_a_driver_is_partial(engine, fake_tensorrt, monkeypatch):
    fake_tensorrt.has_driver = False
    assert not check_engine_loads(engine)
    change_plan(engine, b"no plan")
    with pytest.raises(PivlError, match="magicTag"):
        check_engine_loads(engine)

    def no_runtime(log):
        raise TypeError("pybind11::init(): factory function returned nullptr")

    monkeypatch.setattr(fake_tensorrt, "Runtime", no_runtime)
    assert not check_engine_loads(engine)


# The tests below use the real TensorRT-RTX on the CPU.


@pytest.fixture
def real_engine(rtx, mobilenet, tmp_path) -> Path:
    onnx_path = tmp_path / "model.onnx"
    onnx_path.write_bytes(mobilenet[1].read_bytes())
    return build_engine(onnx_path, "tensorrt-rtx", BatchProfile.parse("1,8,64"))[0]


@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU the engine loads completely")
def test_real_engine_loads_only_partly_without_a_driver(real_engine):
    assert not check_engine_loads(real_engine)


@pytest.mark.parametrize("damage", [lambda plan: plan[:-1], lambda plan: b"x" + plan[1:]])
def test_damaged_real_engine_is_rejected_by_the_library(real_engine, damage):
    change_plan(real_engine, damage(real_engine.read_bytes()))
    with pytest.raises(PivlError, match=r"cannot be loaded: .*Serialization assertion"):
        check_engine_loads(real_engine)


@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU the engine runs")
def test_real_engine_needs_a_gpu_to_run(real_engine):
    with pytest.raises(PivlError, match="runs on an NVIDIA GPU"):
        EngineRunner(real_engine)

"""Running an engine: refused where it cannot run, in parts above its largest batch."""

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
    """A CUDA stream that records whom it waited for."""

    cuda_stream = 7

    def __init__(self) -> None:
        self.waited_for: list[object] = []

    def wait_stream(self, other: object) -> None:
        self.waited_for.append(other)


@pytest.fixture
def torch_stream(monkeypatch) -> Stream:
    """A machine with a GPU whose memory is the CPU's."""
    stream = Stream()
    monkeypatch.setattr(Gpu, "current", lambda: L4)
    monkeypatch.setattr(runner, "DEVICE", torch.device("cpu"))
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: stream)
    return stream


def write_graph(folder: Path, *, cameras: bool = False) -> Path:
    """A file with the inputs and the output of an export, and nothing in between."""
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
    ("batch", "parts"), [(1, [1]), (8, [8]), (9, [5, 4]), (17, [6, 6, 5]), (64, [8] * 8)]
)
def test_a_batch_goes_through_in_parts_that_fit(engine, fake_tensorrt, batch, parts):
    given = images(batch)
    features = EngineRunner(engine)(given)
    torch.testing.assert_close(features, given.sum(dim=(2, 3)))
    assert fake_tensorrt.batches == parts


def test_images_that_are_not_contiguous(engine):
    given = images(3).permute(0, 1, 3, 2).contiguous().permute(0, 1, 3, 2)
    assert not given.is_contiguous()
    torch.testing.assert_close(EngineRunner(engine)(given), given.sum(dim=(2, 3)))


def test_the_engines_stream_waits_for_torch_and_torch_for_it(engine, torch_stream):
    run = EngineRunner(engine)
    run(images(2))
    assert run._stream.waited_for == [torch_stream]
    assert torch_stream.waited_for == [run._stream]


def test_cameras_go_in_beside_the_images(fake_tensorrt, torch_stream, tmp_path):
    path, _ = build_engine(
        write_graph(tmp_path, cameras=True), "tensorrt", BatchProfile.parse("1,4,8")
    )
    run, given = EngineRunner(path), images(9)
    features = run(given, torch.arange(9))
    torch.testing.assert_close(features, given.sum(dim=(2, 3)))
    with pytest.raises(PivlError, match=r"'cameras' are torch\.int64 \[batch\], not torch\.int32"):
        run(given, torch.arange(9, dtype=torch.int32))


@pytest.mark.parametrize(
    "given",
    [
        torch.zeros(2, 3, 4, 8),
        torch.zeros(3, 8, 4),
        torch.zeros(2, 3, 8, 4, dtype=torch.float64),
        torch.zeros(0, 3, 8, 4),
    ],
)
def test_images_that_the_engine_does_not_take(engine, given):
    with pytest.raises(PivlError, match=r"'images' are torch\.float32 \[batch, 3, 8, 4\], not"):
        EngineRunner(engine)(given)


@pytest.mark.parametrize("batch", [1, 3, 4])
def test_a_batch_below_the_profile_is_filled_up(fake_tensorrt, torch_stream, tmp_path, batch):
    path, _ = build_engine(
        write_graph(tmp_path, cameras=True), "tensorrt", BatchProfile.parse("4,4,8")
    )
    given = images(batch)
    features = EngineRunner(path)(given, torch.arange(batch))
    torch.testing.assert_close(features, given.sum(dim=(2, 3)))
    assert fake_tensorrt.batches == [4]


def test_a_run_that_fails_says_so(engine, fake_tensorrt, monkeypatch):
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


def test_a_batch_beyond_the_profile_names_the_option(engine):
    """The sidecar promises more than the plan takes."""
    info = read_sidecar(engine)
    write_sidecar(engine, info.model_copy(update={"profile": BatchProfile.parse("1,4,16")}))
    with pytest.raises(PivlError, match=r"takes batches 1 to 8, not 16: .* --batch 1,16,16\."):
        EngineRunner(engine)(images(16))


def test_an_engine_without_memory_for_its_context_says_so(engine, fake_tensorrt):
    fake_tensorrt.has_context_memory = False
    with pytest.raises(PivlError, match=r"cannot be prepared for running: out of memory\. Free"):
        EngineRunner(engine)


def test_an_engine_of_another_version_is_refused(engine, fake_tensorrt):
    fake_tensorrt.__version__ = "11.5.0"
    with pytest.raises(PivlError, match=r"TensorRT 11\.4\.0, but 11\.5\.0 .* again from model\.on"):
        EngineRunner(engine)
    with pytest.raises(PivlError, match="load only with their own version"):
        check_engine_loads(engine)


def test_without_a_gpu_the_onnx_file_is_the_way_out(engine, monkeypatch):
    monkeypatch.setattr(Gpu, "current", lambda: None)
    with pytest.raises(PivlError, match=r"torch finds none here.*run the ONNX file"):
        EngineRunner(engine)


def test_an_engine_for_another_gpu_is_refused(engine, monkeypatch):
    orin = Gpu(name="Orin", compute_capability="8.7")
    monkeypatch.setattr(Gpu, "current", lambda: orin)
    with pytest.raises(
        PivlError, match=r"on NVIDIA L4 \(compute capability 8\.9\), but this is Orin \(8\.7\)"
    ):
        EngineRunner(engine)


def test_another_gpu_of_the_same_kind_is_noted(engine, monkeypatch, caplog):
    monkeypatch.setattr(Gpu, "current", lambda: Gpu(name="RTX 4090", compute_capability="8.9"))
    assert EngineRunner(engine)(images(1)).shape == (1, 3)
    assert "was built on NVIDIA L4; on RTX 4090" in caplog.text


def test_an_rtx_engine_meets_any_gpu(engine, monkeypatch):
    info = read_sidecar(engine)
    write_sidecar(engine, info.model_copy(update={"library": "tensorrt-rtx", "gpu": None}))
    assert EngineRunner(engine)(images(1)).shape == (1, 3)


def test_an_rtx_engine_is_refused_by_a_gpu_that_its_library_does_not_take(engine, monkeypatch):
    info = read_sidecar(engine)
    write_sidecar(engine, info.model_copy(update={"library": "tensorrt-rtx", "gpu": None}))
    monkeypatch.setattr(Gpu, "current", lambda: Gpu(name="H100", compute_capability="9.0"))
    with pytest.raises(PivlError, match=r"does not run on H100 \(compute capability 9\.0\)"):
        EngineRunner(engine)


def change_plan(path: Path, plan: bytes) -> None:
    """Another plan, with a sidecar that vouches for it."""
    info = read_sidecar(path)
    path.write_bytes(plan)
    write_sidecar(path, info.model_copy(update={"engine_sha256": sha256(path)}))


def test_a_plan_that_does_not_load_is_refused_in_the_librarys_words(engine):
    change_plan(engine, b"no plan")
    for refuse in (EngineRunner, check_engine_loads):
        with pytest.raises(PivlError, match=r"cannot be loaded: magicTag\. Build it again"):
            refuse(engine)


def test_reading_back_compares_the_profile(engine):
    assert check_engine_loads(engine)
    info = read_sidecar(engine)
    write_sidecar(engine, info.model_copy(update={"profile": BatchProfile.parse("1,4,16")}))
    with pytest.raises(PivlError, match="not what its"):
        check_engine_loads(engine)


def test_reading_back_without_a_driver_goes_as_far_as_it_can(engine, fake_tensorrt, monkeypatch):
    fake_tensorrt.has_driver = False
    assert not check_engine_loads(engine)
    change_plan(engine, b"no plan")
    with pytest.raises(PivlError, match="magicTag"):
        check_engine_loads(engine)

    def no_runtime(log):
        raise TypeError("pybind11::init(): factory function returned nullptr")

    monkeypatch.setattr(fake_tensorrt, "Runtime", no_runtime)
    assert not check_engine_loads(engine)


# With the real TensorRT-RTX, on the CPU.


@pytest.fixture
def real_engine(rtx, mobilenet, tmp_path) -> Path:
    onnx_path = tmp_path / "model.onnx"
    onnx_path.write_bytes(mobilenet[1].read_bytes())
    return build_engine(onnx_path, "tensorrt-rtx", BatchProfile.parse("1,8,64"))[0]


@pytest.mark.skipif(torch.cuda.is_available(), reason="here the engine loads wholly")
def test_a_real_engine_is_read_up_to_the_missing_driver(real_engine):
    assert not check_engine_loads(real_engine)


@pytest.mark.parametrize("damage", [lambda plan: plan[:-1], lambda plan: b"x" + plan[1:]])
def test_a_damaged_real_engine_is_refused_by_the_library(real_engine, damage):
    change_plan(real_engine, damage(real_engine.read_bytes()))
    with pytest.raises(PivlError, match=r"cannot be loaded: .*Serialization assertion"):
        check_engine_loads(real_engine)


@pytest.mark.skipif(torch.cuda.is_available(), reason="here the engine runs")
def test_a_real_engine_asks_for_a_gpu(real_engine):
    with pytest.raises(PivlError, match="runs on an NVIDIA GPU"):
        EngineRunner(real_engine)
